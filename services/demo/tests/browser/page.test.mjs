// The live page in Chromium and Firefox. With SCREENSHOTS=FOLDER, each state is pictured there, and the
// README's picture is taken as `calm.png`, when a minute of pings has filled the plot.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";

import axe from "axe-core";

import { BROWSERS, chromium, firefox, launch, skipWithout } from "./browsers.mjs";
import { startDemo, startPinger, startServer } from "./services.mjs";

const skip = skipWithout(chromium, firefox);
const pictures = process.env.SCREENSHOTS;
const WIDE = { width: 1100, height: 860 };
const NARROW = { width: 320, height: 800 };

// The demo's services, and what was started beside them.
let demo;
const started = [];
const keep = async (service) => {
	started.push(await service);
	return started.at(-1);
};

before(async () => {
	if (skip) return;
	demo = await startDemo();
	if (pictures) mkdirSync(pictures, { recursive: true });
});

after(async () => {
	for (const service of started) await service.stop();
	await demo?.stop();
});

// Opens `url` in a new page that collects what browsers complain about.
async function open(browser, url, viewport = WIDE) {
	const page = await browser.newPage();
	await page.setViewport(viewport);
	const complaints = [];
	page.on("console", (message) => {
		if (["error", "warn", "warning"].includes(message.type())) complaints.push(message.text());
	});
	page.on("pageerror", (error) => complaints.push(String(error)));
	page.on("request", (request) => {
		const isRemote = request.url().startsWith("http");
		if (isRemote && !request.url().startsWith(url)) complaints.push(`third party: ${request.url()}`);
	});
	await page.evaluateOnNewDocument(() => {
		globalThis.violations = [];
		document.addEventListener("securitypolicyviolation", (event) => {
			globalThis.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
		});
	});
	await page.goto(url);
	return { page, complaints };
}

const waitForText = (page, id, text) =>
	page.waitForFunction(
		(id, text) => document.getElementById(id).textContent.includes(text),
		{ timeout: 60_000 },
		id,
		text,
	);

// Waits until the plot has `count` pings or more, and returns how many.
async function waitForPings(page, count) {
	const pings = () => page.evaluate(() => Number(document.getElementById("plot").ariaValueMax) + 1);
	const enough = (count) => Number(document.getElementById("plot").ariaValueMax) + 1 >= count;
	await page.waitForFunction(enough, { timeout: 180_000 }, count);
	return pings();
}

// Waits until the plot has a pixel of the colour with this name, opaque.
const waitForColour = (page, name) =>
	page.waitForFunction(
		(name) => {
			const canvas = document.querySelector("#plot canvas");
			const probe = document.createElement("canvas").getContext("2d");
			probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
			probe.fillRect(0, 0, 1, 1);
			const wanted = probe.getImageData(0, 0, 1, 1).data;
			const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
			const isWanted = (at) => [0, 1, 2, 3].every((byte) => Math.abs(data[at + byte] - wanted[byte]) < 8);
			for (let at = 0; at < data.length; at += 4) if (isWanted(at)) return true;
			return false;
		},
		{ timeout: 60_000, polling: 500 },
		name,
	);

// What is true of the page in each state.
async function assertSane({ page, complaints }) {
	const width = await page.evaluate(() => document.documentElement.scrollWidth);
	assert.ok(width <= page.viewport().width, `${width} pixels wide in ${page.viewport().width}`);
	assert.deepEqual(await page.evaluate(() => globalThis.violations), []);
	assert.deepEqual(complaints, []);
	await page.evaluate(axe.source);
	const { violations } = await page.evaluate(() => axe.run());
	const found = violations.map(({ id, impact, nodes }) => `${impact} ${id}: ${nodes.map((node) => node.html)}`);
	assert.deepEqual(found, []);
}

async function picture(page, name) {
	if (pictures) await page.screenshot({ path: path.join(pictures, `${name}.png`), fullPage: true });
}

// What each state is: a pinger's page, and what the page then says.
const STATES = {
	calm: { page: async () => demo.page, says: ["status", "ponger answers"] },
	storm: {
		async page() {
			let requests = 0;
			const server = await keep(
				startServer(demo.dir, (request, response) => {
					requests += 1;
					if (requests % 3 === 0) response.end("pong");
					else if (requests % 3 === 1) request.socket.destroy();
					else response.writeHead(500).end();
				}),
			);
			return (await keep(startPinger(demo.dir, server.port))).page;
		},
		says: ["failures", "500"],
		marks: "bad",
	},
	expiring: {
		async page() {
			const port = await demoPort();
			const env = { PINGER__IDENTITY__EXPIRY_WARNING: "1d", PINGER__REJECTION_PROBE__INTERVAL: "1s" };
			return (await keep(startPinger(demo.dir, port, env))).page;
		},
		says: ["alerts", "a certificate of ponger expires soon"],
	},
	slow: {
		async page() {
			const env = { PINGER__SLOW_AFTER: "1ms" };
			return (await keep(startPinger(demo.dir, await demoPort(), env))).page;
		},
		says: ["readout", "ms, slow"],
		marks: "warn",
	},
	started: {
		async page() {
			return (await keep(startPinger(demo.dir, 1, { PINGER__INTERVAL: "365d" }))).page;
		},
		says: ["status", "Waiting for the first ping"],
	},
};

// The port of the demo's ponger, as its page says.
async function demoPort() {
	const html = await (await fetch(demo.page)).text();
	return html.match(/https:\/\/localhost:(\d+)/)[1];
}

for (const browser of BROWSERS) {
	describe(browser.name, { skip }, () => {
		for (const [name, state] of Object.entries(STATES)) {
			for (const dark of [false, true]) {
				const theme = dark ? "dark" : "light";
				test(`shows the state "${name}", ${theme}, wide and narrow`, async () => {
					state.url ??= await state.page();
					const running = await launch(browser, { dark });
					try {
						for (const [size, viewport] of Object.entries({ wide: WIDE, narrow: NARROW })) {
							const opened = await open(running, state.url, viewport);
							await waitForText(opened.page, ...state.says);
							await waitForText(opened.page, "connection", "Live");
							if (pictures) await opened.page.waitForFunction(() => document.querySelector("#latency canvas"));
							await picture(opened.page, `${browser.name}-${name}-${theme}-${size}`);
							const scheme = await opened.page.evaluate(() => matchMedia("(prefers-color-scheme: dark)").matches);
							assert.equal(scheme, dark);
							if (state.marks) await waitForColour(opened.page, state.marks);
							if (pictures && `${browser.name} ${name} ${theme} ${size}` === "chromium calm light wide") {
								await waitForPings(opened.page, 120);
								await opened.page.screenshot({ path: path.join(pictures, "calm.png") });
							}
							await assertSane(opened);
							await opened.page.close();
						}
					} finally {
						await running.close();
					}
				});
			}
		}

		test("moves by itself, keeps the range over a reload, and is usable by keyboard", async () => {
			const running = await launch(browser);
			try {
				const { page, complaints } = await open(running, demo.page);
				const before = await waitForPings(page, 1);
				await waitForPings(page, before + 1);
				// The label is what a pointer hits.
				await page.click('label:has(input[value="600"])');
				await page.reload();
				// pinger has kept what the page before it showed.
				await waitForPings(page, before + 1);
				assert.equal(await page.evaluate(() => document.querySelector("input:checked").value), "600");

				await page.focus("#plot");
				await page.keyboard.press("Home");
				const value = () => page.evaluate(() => document.getElementById("plot").ariaValueText);
				const first = await value();
				assert.match(first, / ms, resolve /);
				await page.keyboard.press("ArrowRight");
				await page.waitForFunction((first) => document.getElementById("plot").ariaValueText !== first, {}, first);
				assert.deepEqual(complaints, []);
			} finally {
				await running.close();
			}
		});

		test("says that pinger is gone and that it is back, and keeps its pings", async () => {
			const port = await demoPort();
			let pinger = await startPinger(demo.dir, port);
			const running = await launch(browser);
			try {
				const { page } = await open(running, pinger.page);
				const before = await waitForPings(page, 3);
				await pinger.stop();
				await waitForText(page, "connection", "No connection to pinger since");
				pinger = await startPinger(demo.dir, port, {}, new URL(pinger.page).port);
				await waitForText(page, "connection", "pinger was restarted at");
				await waitForPings(page, before + 1);
			} finally {
				await running.close();
				await pinger.stop();
			}
		});

		test("says that too many pages are open, and is live again when one was closed", async () => {
			const pinger = await startPinger(demo.dir, await demoPort());
			const others = new AbortController();
			const running = await launch(browser);
			try {
				for (let count = 0; count < 16; count++) await fetch(`${pinger.page}events`, { signal: others.signal });
				const opened = await open(running, pinger.page);
				await waitForText(opened.page, "connection", "Not live: 16 pages are open, which is the limit");
				await assertSane(opened);
				others.abort();
				await waitForText(opened.page, "connection", "Live");
			} finally {
				others.abort();
				await running.close();
				await pinger.stop();
			}
		});

		test("shows what a hostile peer sends as text", async () => {
			const body = "<img src=x onerror=alert(1)><script>alert(2)</script>";
			const server = await keep(startServer(demo.dir, (_, response) => response.end(body)));
			const pinger = await keep(startPinger(demo.dir, server.port));
			const running = await launch(browser);
			try {
				const opened = await open(running, pinger.page);
				opened.page.on("dialog", (dialog) => opened.complaints.push(dialog.message()));
				await waitForText(opened.page, "failures", "<script>alert(2)</script>");
				assert.equal(await opened.page.evaluate(() => document.querySelectorAll("img").length), 0);
				await assertSane(opened);
			} finally {
				await running.close();
			}
		});
	});
}

test("Chromium without script shows the same state", { skip }, async () => {
	const running = await launch(BROWSERS[0]);
	try {
		const page = await running.newPage();
		await page.setJavaScriptEnabled(false);
		await page.goto(demo.page);
		const text = await page.evaluate(() => document.body.innerText);
		for (const part of ["Without script", "ponger answers", "TLSv1.3", "spiffe://cluster.local/ns/demo/sa/ponger"]) {
			assert.ok(text.includes(part), `${part}: ${text}`);
		}
		await picture(page, "chromium-calm-without-script");
	} finally {
		await running.close();
	}
});
