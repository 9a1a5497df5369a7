// What every test in a real browser has in common: Debian's Chromium, a page that is watched, axe.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

/** The program, which the tests are given. */
export const PROGRAM = resolve(process.env.PERFORMER_DDPM ?? join(import.meta.dirname, "../../target/debug/performer-ddpm"));
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

/** A new folder, removed at the end of the test. */
export function folder(test) {
  const made = mkdtempSync(join(tmpdir(), "performer-ddpm-"));
  test.after(() => rmSync(made, { recursive: true, force: true }));
  return made;
}

/** Where the program runs: training leaves a link to its run there. */
const PLACE = mkdtempSync(join(tmpdir(), "performer-ddpm-"));
process.on("exit", () => rmSync(PLACE, { recursive: true, force: true }));

/** Runs the program, and returns what it prints. */
export function program(...words) {
  return execFileSync(PROGRAM, words, { cwd: PLACE, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** Starts the program, which prints its address in its first line, and returns the address. */
export async function served(test, ...words) {
  const child = spawn(PROGRAM, words, { stdio: ["ignore", "pipe", "inherit"] });
  test.after(() => child.kill());
  const [line] = await once(child.stdout, "data");
  return line.toString().trim();
}

export async function browser(test) {
  const started = await chromium.launch({
    executablePath: CHROMIUM,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  test.after(() => started.close());
  return started;
}

/** Opens a page and notes what no page should do: errors, and requests to other hosts. */
export async function open(started, address, options = {}) {
  const page = await started.newPage({ viewport: { width: 1280, height: 900 }, ...options });
  const faults = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) faults.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`error: ${error}`));
  page.on("requestfailed", (request) => faults.push(`failed: ${request.url()}`));
  page.on("request", (request) => {
    const { protocol, origin } = new URL(request.url());
    if (!["data:", "blob:"].includes(protocol) && origin !== new URL(address).origin) faults.push(`foreign: ${request.url()}`);
  });
  await page.goto(address);
  return { page, faults };
}

/** What axe finds that is serious or critical: the rule and the elements. */
export async function serious(page) {
  await page.evaluate(readFileSync(AXE, "utf8"));
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
}

/** The numbers of a `.npy` file of f32 and their shape. */
export function npy(file) {
  const bytes = readFileSync(file);
  const length = bytes.readUInt16LE(8);
  const shape = /'shape': \(([^)]*)\)/.exec(bytes.toString("latin1", 10, 10 + length))[1];
  const numbers = bytes.buffer.slice(bytes.byteOffset + 10 + length, bytes.byteOffset + bytes.length);
  return { shape: shape.split(",").map((side) => side.trim()).filter(Boolean).map(Number), numbers: new Float32Array(numbers) };
}

/** The largest difference of two arrays of one shape. */
export function difference(a, b) {
  if (a.shape.join() !== b.shape.join()) throw new Error(`shapes ${a.shape} and ${b.shape}`);
  return a.numbers.reduce((most, value, i) => Math.max(most, Math.abs(value - b.numbers[i])), 0);
}
