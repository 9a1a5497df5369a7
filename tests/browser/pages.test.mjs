// The pages of `audit --html`, `train` and `report` in a browser, wide and narrow, light and dark.
//
// PAGES_SHOTS=FOLDER keeps pictures of them, for whoever wants to look.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { parse } from "parse5";
import { browser, folder, open, program, serious } from "./browser.mjs";

const SIZES = [{ width: 1280, height: 900 }, { width: 390, height: 844 }];

/** What every page has to be. */
async function check(t, started, name, file) {
  const address = pathToFileURL(file).href;
  await t.test(`${name}, as the standard has it`, () => {
    const faults = [];
    parse(readFileSync(file, "utf8"), { onParseError: (fault) => faults.push(`line ${fault.startLine}: ${fault.code}`) });
    assert.deepEqual(faults, []);
  });
  for (const viewport of SIZES) {
    for (const colorScheme of ["light", "dark"]) {
      await t.test(`${name}, ${viewport.width} px, ${colorScheme}`, async () => {
        const { page, faults } = await open(started, address, { viewport, colorScheme });
        assert.deepEqual(await serious(page), []);
        const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
        assert.ok(wide <= 0, `${wide} px wider than the screen`);
        const hidden = await page.evaluate(() => [...document.images].filter((image) => !image.naturalWidth).length);
        assert.equal(hidden, 0, "pictures that are not shown");
        const lost = await page.evaluate(() =>
          [...document.querySelectorAll("a[href^='#']")]
            .map((link) => link.getAttribute("href").slice(1))
            .filter((id) => !document.getElementById(id)));
        assert.deepEqual(lost, []);
        await page.keyboard.press("Tab");
        const first = await page.evaluate(() => document.activeElement.getAttribute("href"));
        assert.equal(first, "#main", "the keyboard's first stop");
        if (process.env.PAGES_SHOTS) {
          mkdirSync(process.env.PAGES_SHOTS, { recursive: true });
          const picture = `${name}-${viewport.width}-${colorScheme}.png`;
          await page.screenshot({ path: join(process.env.PAGES_SHOTS, picture), fullPage: name !== "audit" });
        }
        assert.deepEqual(faults, []);
        await page.close();
      });
    }
  }
  await t.test(`${name}, without scripts`, async () => {
    const context = await started.newContext({ javaScriptEnabled: false });
    const page = await context.newPage();
    await page.goto(address);
    assert.ok((await page.textContent("main")).length > 200);
    await context.close();
  });
}

test("the audit", async (t) => {
  const place = folder(t);
  const report = JSON.parse(program("audit", "--html", place, "--json"));
  const started = await browser(t);
  const file = join(place, "index.html");
  await check(t, started, "audit", file);
  await t.test("formulas have their size, and dark charts are dark", async () => {
    const { page } = await open(started, pathToFileURL(file).href, { colorScheme: "dark" });
    const flat = await page.evaluate(() =>
      [...document.querySelectorAll("math")].filter((math) => math.getBoundingClientRect().height < 5).length);
    assert.equal(flat, 0);
    const paper = await page.evaluate(() => getComputedStyle(document.querySelector("figure svg rect")).fill);
    assert.equal(paper, "rgb(23, 25, 29)");
    const checks = report.items.concat(report.annex).flatMap((item) => item.checks).length;
    assert.equal(await page.locator(".checks tbody tr").count(), checks);
  });
});

test("a run's report, while it goes on and after, and one of two runs", async (t) => {
  const place = folder(t);
  const run = (name, ...words) => {
    const made = join(place, name);
    program("train", "--preset", "tiny", "--steps", "24", "--out", made, "--quiet", ...words);
    return made;
  };
  const [first, second] = [run("first", "--tensorboard"), run("second", "--lr", "0.001")];
  const both = join(place, "both.html");
  assert.equal(program("report", first, second, "--out", both).trim(), both);
  const started = await browser(t);
  await check(t, started, "run", join(first, "report.html"));
  await check(t, started, "runs", both);
  assert.ok(readFileSync(both, "utf8").includes(basename(second)));
});
