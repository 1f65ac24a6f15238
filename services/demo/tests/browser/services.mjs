// The services that the browsers look at: real ones, and servers that misbehave.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";

const repository = path.resolve(import.meta.dirname, "../../../..");
const target = process.env.CARGO_TARGET_DIR ?? path.join(repository, "target");

// Starts a program, and resolves with it when it has logged a line that fits `pattern`; `match` is that
// line's.
export async function start(name, args, pattern, env = {}) {
	const program = spawn(path.join(target, "debug", name), args, {
		env: { PATH: process.env.PATH, ...env },
		stdio: ["ignore", "pipe", "pipe"],
	});
	const ended = new Promise((resolve) => program.once("close", resolve));
	const log = [];
	const match = await new Promise((resolve, reject) => {
		for (const output of [program.stdout, program.stderr]) {
			createInterface(output).on("line", (line) => {
				log.push(line);
				const match = line.match(pattern);
				if (match) resolve(match);
			});
		}
		program.once("error", reject);
		ended.then(() => reject(new Error(`${name} has ended:\n${log.join("\n")}`)));
	});
	const stop = async () => {
		program.kill("SIGINT");
		await ended;
	};
	return { match, log, stop };
}

// The demo, whose certificates the other services use too: their authority exists nowhere else.
export async function startDemo() {
	const temp = mkdtempSync(path.join(tmpdir(), "browser-"));
	const demo = await start("demo", ["--keep"], /^pinger \| .* Pinging .*admin=(\S+)/, { TMPDIR: temp });
	const dir = demo.log.join("\n").match(/: (\S+) \(kept\)/)[1];
	const stop = async () => {
		await demo.stop();
		rmSync(temp, { recursive: true });
	};
	return { page: `http://${demo.match[1]}/`, dir, stop };
}

// A pinger of `port` that is configured by `env`, and whose admin listener is on `adminPort`.
export async function startPinger(dir, port, env = {}, adminPort = 0) {
	const pinger = await start("pinger", [], / Pinging .*admin=(\S+)/, {
		PINGER__PONGER__URL: `https://localhost:${port}`,
		PINGER__PONGER__ACCEPT_CERT: `${dir}/ca.crt`,
		PINGER__PONGER__CLIENT_CERTIFICATE: `${dir}/pinger/tls.crt`,
		PINGER__PONGER__CLIENT_PRIVATE_KEY: `${dir}/pinger/tls.key`,
		PINGER__PONGER__SERVER_ID: "spiffe://cluster.local/ns/demo/sa/ponger",
		PINGER__INTERVAL: "200ms",
		PINGER__METRICS__HOST: "127.0.0.1",
		PINGER__METRICS__PORT: adminPort,
		...env,
	});
	return { page: `http://${pinger.match[1]}/`, stop: pinger.stop };
}

// A ponger that accepts clients without a certificate, as `k8s/overlays/local` has it.
export async function startAnonymousPonger(dir) {
	const ponger = await start("ponger", [], / Listening address=\S+:(\d+)/, {
		PONGER__SERVICE__HOST: "127.0.0.1",
		PONGER__SERVICE__PORT: 0,
		PONGER__SERVICE__TLS_CERTIFICATE: `${dir}/ponger/tls.crt`,
		PONGER__SERVICE__TLS_PRIVATE_KEY: `${dir}/ponger/tls.key`,
		PONGER__SERVICE__CLIENT_CA: `${dir}/ca.crt`,
		PONGER__SERVICE__CLIENT_AUTH: "optional",
		PONGER__SERVICE__ALLOW_ANONYMOUS: "true",
		PONGER__SERVICE__DRAIN_DELAY: "0s",
		PONGER__METRICS__HOST: "127.0.0.1",
		PONGER__METRICS__PORT: 0,
	});
	return { port: ponger.match[1], stop: ponger.stop };
}

// A server with ponger's certificate that answers with `respond`.
export async function startServer(dir, respond) {
	const [cert, key] = ["crt", "key"].map((kind) => readFileSync(`${dir}/ponger/tls.${kind}`));
	const server = createServer({ cert, key, ALPNProtocols: ["http/1.1"] }, respond);
	await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
	const stop = () => new Promise((resolve) => server.close(resolve).closeAllConnections());
	return { port: server.address().port, stop };
}

