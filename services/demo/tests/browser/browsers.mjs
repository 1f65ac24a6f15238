// The browsers of this machine, headless.

import { execFileSync } from "node:child_process";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

import puppeteer from "puppeteer-core";

const executable = (name) => {
	const folders = process.env.PATH.split(path.delimiter);
	return folders.map((folder) => path.join(folder, name)).find((file) => {
		try {
			accessSync(file, constants.X_OK);
			return true;
		} catch {
			return false;
		}
	});
};

// Where a browser is missing, its tests are skipped, except in CI.
const required = process.env.CI !== undefined;
export const chromium = executable("chromium") ?? executable("google-chrome");
export const firefox = executable("firefox-esr") ?? executable("firefox");
export const certutil = executable("certutil");

export function skipWithout(...programs) {
	if (required || programs.every((program) => program !== undefined)) return false;
	return "needs chromium, firefox-esr and certutil (libnss3-tools)";
}

export const BROWSERS = [
	{ name: "chromium", executablePath: chromium },
	{ name: "firefox", executablePath: firefox },
];

// Starts a browser; `dark` is the colour scheme that the viewer prefers. `profile` is a profile's folder.
export function launch(browser, { dark = false, profile } = {}) {
	const { executablePath } = browser;
	if (browser.name === "firefox") {
		return puppeteer.launch({
			browser: "firefox",
			executablePath,
			userDataDir: profile,
			extraPrefsFirefox: { "layout.css.prefers-color-scheme.content-override": dark ? 0 : 1 },
		});
	}
	// As root, Chromium runs without its sandbox only. What it opens is ours.
	const args = ["--no-sandbox", "--disable-dev-shm-usage"];
	if (dark) args.push("--blink-settings=preferredColorScheme=0");
	return puppeteer.launch({ browser: "chrome", executablePath, args });
}

// A Firefox profile that trusts the certificate authority in `file`.
export function profileThatTrusts(file) {
	const profile = mkdtempSync(path.join(tmpdir(), "profile-"));
	const run = (...args) => execFileSync(certutil, ["-d", `sql:${profile}`, ...args]);
	run("-N", "--empty-password");
	run("-A", "-n", "demo", "-t", "C,,", "-i", file);
	return { profile, remove: () => rmSync(profile, { recursive: true, force: true }) };
}
