// The live page: replaces the sections that changed, and draws the plot. It keeps the pings that it has
// received while pinger is restarted or the connection is lost.
"use strict";

// As `Phase::ALL` and `MAX_PINGS` of pinger.
const PHASES = ["resolve", "connect", "tls", "processing", "transfer"];
const MAX_PINGS = 7200;
const RETRY_MS = 1000;
const LIMIT_RETRY_MS = 5000;
// A pong that took longer is slow.
const SLOW_MS = Number(document.getElementById("plot").dataset.slowAfter ?? Infinity);

const element = (id) => document.getElementById(id);
const colour = (name) =>
	getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// ---- Pings, in columns as the plot takes them. A lost ping has a reason, and no latency.

// Seconds since 1970.
const times = [];
// Milliseconds in all.
const durations = [];
// Milliseconds up to the end of each phase.
const ends = PHASES.map(() => []);
const reasons = [];

function addPings(begin, rows) {
	let began = begin;
	for (const row of rows) {
		const [[pause, duration, ...phases], reason] = Array.isArray(row[0]) ? row : [row, null];
		began += pause;
		// Pings of several endpoints overlap, and a clock may be set back.
		let at = times.length;
		while (at > 0 && times[at - 1] > began / 1000) at--;
		times.splice(at, 0, began / 1000);
		durations.splice(at, 0, duration / 1000);
		reasons.splice(at, 0, reason);
		let end = 0;
		phases.forEach((time, phase) => {
			end += time / 1000;
			ends[phase].splice(at, 0, reason ? null : end);
		});
	}
	const surplus = times.length - MAX_PINGS;
	if (surplus > 0) for (const column of [times, durations, reasons, ...ends]) column.splice(0, surplus);
}

// ---- The plot: phases stacked, the last one behind the others.

// When the last ping arrived here, since the viewer's clock may differ from pinger's.
let arrived = performance.now();
const now = () => (times.at(-1) ?? Date.now() / 1000) + (performance.now() - arrived) / 1000;
// The range in seconds, which survives a reload.
let range = 60;
// The time of the ping that is selected; the last one if null.
let selected = null;
let plot = null;

const data = () => [times, ...ends.toReversed()];

function createPlot() {
	element("latency").hidden = false;
	const axis = { stroke: () => colour("muted"), font: "12px system-ui, sans-serif" };
	const grid = { stroke: () => colour("line"), width: 1 };
	const series = PHASES.toReversed().map((phase, index) => ({
		label: phase,
		stroke: () => colour(phase),
		fill: () => colour(phase),
		width: 1,
		points: index === 0 ? { filter: pointsToShow } : { show: false },
	}));
	plot = new uPlot(
		{
			...plotSize(),
			legend: { show: false },
			cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
			scales: {
				x: { range: () => [now() - range, now()] },
				y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] },
			},
			axes: [
				{ ...axis, grid: { show: false }, ticks: grid, space: 90, values: (_, times) => times.map(clock) },
				{ ...axis, grid, ticks: { show: false }, size: 64, values: (_, v) => v.map((ms) => `${ms} ms`) },
			],
			series: [{}, ...series],
			hooks: { draw: [drawMarks], setCursor: [followCursor] },
		},
		data(),
		element("plot"),
	);
	new ResizeObserver(() => plot.setSize(plotSize())).observe(element("plot"));
	matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.redraw());
}

// Dots on top of the stack: where pings are far apart, all (null); else those between two losses, of which
// there is no line.
const pointsToShow = (plot, column, all) => {
	if (all) return null;
	const values = plot.data[column];
	const isAlone = (at) => values[at] != null && values[at - 1] == null && values[at + 1] == null;
	return [...values.keys()].filter(isAlone);
};

const clock = (seconds) =>
	new Date(seconds * 1000).toLocaleTimeString([], {
		hour: "2-digit",
		minute: "2-digit",
		second: range > 60 ? undefined : "2-digit",
	});

const plotSize = () => ({ width: element("plot").clientWidth, height: element("plot").clientHeight });

const isSlow = (at) => !reasons[at] && durations[at] > SLOW_MS;

// How lost and slow pings are marked: by a colour, and by a sign for those who do not tell colours apart.
// Each sign is lines through points, in half its size from its middle.
const LOST = { colour: "bad", lines: [[[-1, -1], [1, 1]], [[-1, 1], [1, -1]]] };
const SLOW = { colour: "warn", lines: [[[-1, 1], [0, -1], [1, 1], [-1, 1]]] };

function drawMarks(plot) {
	const { ctx, bbox } = plot;
	const size = 5 * devicePixelRatio;
	const y = bbox.top + size;
	const lastSign = new Map();
	ctx.save();
	ctx.lineWidth = 2 * devicePixelRatio;
	for (let at = firstAfter(now() - range); at < times.length; at++) {
		const mark = reasons[at] ? LOST : isSlow(at) ? SLOW : null;
		if (!mark) continue;
		const x = plot.valToPos(times[at], "x", true);
		ctx.fillStyle = ctx.strokeStyle = colour(mark.colour);
		ctx.globalAlpha = 0.3;
		ctx.fillRect(x - devicePixelRatio, bbox.top, 2 * devicePixelRatio, bbox.height);
		if (x - (lastSign.get(mark) ?? -Infinity) < 2 * size) continue;
		lastSign.set(mark, x);
		ctx.globalAlpha = 1;
		ctx.beginPath();
		for (const [[startX, startY], ...rest] of mark.lines) {
			ctx.moveTo(x + startX * size, y + startY * size);
			for (const [nextX, nextY] of rest) ctx.lineTo(x + nextX * size, y + nextY * size);
		}
		ctx.stroke();
	}
	ctx.restore();
}

// The first ping that began at `time` or later.
function firstAfter(time) {
	const at = times.findIndex((began) => began >= time);
	return at < 0 ? times.length : at;
}

// Shows the ping under the pointer; the last one when it has left.
function followCursor(plot) {
	if (plot.cursor.event === undefined) return;
	const { idx } = plot.cursor;
	selected = idx == null ? null : times[idx];
	describe();
}

function select(at) {
	at = Math.max(firstAfter(now() - range), Math.min(at, times.length - 1));
	selected = times[at] ?? null;
	const left = selected === null ? -10 : plot.valToPos(selected, "x");
	plot.setCursor({ left, top: 0 }, false);
	describe();
}

element("plot").addEventListener("keydown", (event) => {
	const at = selectedIndex();
	const target = {
		ArrowLeft: at - 1,
		ArrowDown: at - 1,
		ArrowRight: at + 1,
		ArrowUp: at + 1,
		PageDown: at - 10,
		PageUp: at + 10,
		Home: 0,
		End: times.length - 1,
	}[event.key];
	if (target === undefined) return;
	event.preventDefault();
	select(target);
});

element("plot").addEventListener("blur", () => {
	selected = null;
	plot?.setCursor({ left: -10, top: 0 }, false);
	describe();
});

const selectedIndex = () => (selected === null ? times.length - 1 : Math.min(firstAfter(selected), times.length - 1));

// Says in words what the selected ping was.
function describe() {
	const at = selectedIndex();
	if (at < 0) return;
	const began = new Date(times[at] * 1000).toLocaleTimeString();
	const words = [];
	const readout = element("readout");
	readout.replaceChildren(text("b", began));
	if (reasons[at]) {
		const hint = document.querySelector(`[data-reason="${reasons[at]}"]`);
		words.push(`lost: ${reasons[at]}.`, hint?.textContent ?? "");
		const lost = text("b", `lost after ${durations[at].toFixed(1)} ms: ${reasons[at]}`, "bad");
		readout.append(" ", lost, " ", ...(hint?.cloneNode(true).childNodes ?? []));
	} else {
		words.push(`${durations[at].toFixed(1)} ms${isSlow(at) ? ", slow" : ""}`);
		readout.append(" ", text("span", words[0], isSlow(at) ? "warn" : ""));
		PHASES.forEach((phase, index) => {
			const duration = ends[index][at] - (index > 0 ? ends[index - 1][at] : 0);
			words.push(`${phase} ${duration.toFixed(1)}`);
			readout.append(" ", text("span", words.at(-1), `swatch ${phase}`));
		});
	}
	const plot = element("plot");
	plot.setAttribute("aria-valuemax", times.length - 1);
	plot.setAttribute("aria-valuenow", at);
	plot.setAttribute("aria-valuetext", `${began}, ${words.join(", ")}`);
}

function text(name, content, className = "") {
	const node = document.createElement(name);
	node.textContent = content;
	node.className = className;
	return node;
}

function draw() {
	if (!plot) createPlot();
	plot.setData(data());
	// What is selected stays so while the plot moves.
	if (selected === null) describe();
	else plot.setCursor({ left: plot.valToPos(selected, "x"), top: 0 }, false);
}

// ---- Sections.

function replaceSections(sections) {
	for (const [id, html] of Object.entries(sections)) {
		// pinger has escaped what it shows.
		element(id).innerHTML = html;
		localizeTimes(element(id));
	}
}

// Shows times in the viewer's zone, and in UTC as a title.
function localizeTimes(root) {
	for (const time of root.querySelectorAll("time")) {
		const at = new Date(time.dateTime);
		const isToday = at.toDateString() === new Date().toDateString();
		time.title = time.textContent;
		time.textContent = isToday ? at.toLocaleTimeString() : at.toLocaleString();
	}
}

// ---- The connection to pinger.

let events = null;
let retry = null;
// The run of pinger, and how many of its pings arrived.
let run = null;
let position = 0;
let lostSince = null;
let note = "";

function connect() {
	clearTimeout(retry);
	const query = run === null ? "" : `?run=${run}&position=${position}`;
	events = new EventSource(`events${query}`);
	events.onmessage = (event) => apply(JSON.parse(event.data));
	events.addEventListener("limit", (event) => {
		disconnect();
		say(`Not live: ${event.data}; trying again.`, "bad");
		retry = setTimeout(connect, LIMIT_RETRY_MS);
	});
	// Not left to the browser: some do not try again when nothing listens, none after a status.
	events.onerror = () => {
		disconnect();
		lostSince ??= new Date().toLocaleTimeString();
		say(`No connection to pinger since ${lostSince}; trying again.`, "bad");
		retry = setTimeout(connect, RETRY_MS);
	};
}

function disconnect() {
	clearTimeout(retry);
	events?.close();
	events = null;
}

function apply(update) {
	if (run !== null && run !== update.run) {
		note = ` pinger was restarted at ${new Date(update.run).toLocaleTimeString()}.`;
	}
	({ run, position } = update);
	lostSince = null;
	say(`Live.${note}`);
	replaceSections(update.sections);
	if (update.pings.length > 0) {
		addPings(update.begin, update.pings);
		arrived = performance.now();
	}
	draw();
}

function say(words, className = "") {
	const connection = element("connection");
	if (connection.textContent === words) return;
	connection.textContent = words;
	connection.className = className;
}

// ---- Start.

for (const input of document.querySelectorAll("input[name=range]")) {
	input.checked = input.value === (sessionStorage.getItem("range") ?? "60");
	if (input.checked) range = Number(input.value);
	input.addEventListener("change", () => {
		range = Number(input.value);
		sessionStorage.setItem("range", input.value);
		draw();
	});
}
localizeTimes(document);
// A browser has six connections to a host: pages that nobody sees leave them to others.
const connectIfVisible = () => {
	disconnect();
	if (!document.hidden) connect();
};
connectIfVisible();
document.addEventListener("visibilitychange", connectIfVisible);
// The plot moves while nothing happens, too.
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) {
	setInterval(() => {
		if (plot && !document.hidden) draw();
	}, 1000);
}
