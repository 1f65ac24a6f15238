// Firefox and ponger: a trusted connection with our certificate authority in the profile, none without.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { BROWSERS, certutil, firefox, launch, profileThatTrusts, skipWithout } from "./browsers.mjs";
import { startAnonymousPonger, startDemo } from "./services.mjs";

const skip = skipWithout(firefox, certutil);
const browser = BROWSERS.find(({ name }) => name === "firefox");
let demo, ponger;

before(async () => {
	if (skip) return;
	demo = await startDemo();
	ponger = await startAnonymousPonger(demo.dir);
});

after(async () => {
	await ponger?.stop();
	await demo?.stop();
});

test("Firefox that trusts our certificate authority shows pong", { skip }, async () => {
	const { profile, remove } = profileThatTrusts(`${demo.dir}/ca.crt`);
	const running = await launch(browser, { profile });
	try {
		const page = await running.newPage();
		const response = await page.goto(`https://localhost:${ponger.port}/ping`);
		assert.equal(response.status(), 200);
		assert.equal(await page.evaluate(() => document.body.textContent), "pong");
		// Firefox would not call a page secure that an exception was made for.
		assert.equal(await page.evaluate(() => isSecureContext), true);
	} finally {
		await running.close();
		remove();
	}
});

test("Firefox refuses the connection without our certificate authority", { skip }, async () => {
	const running = await launch(browser);
	try {
		const page = await running.newPage();
		await assert.rejects(page.goto(`https://localhost:${ponger.port}/ping`), /UNKNOWN_ISSUER|insecure/i);
	} finally {
		await running.close();
	}
});
