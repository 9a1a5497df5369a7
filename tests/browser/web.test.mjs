// The page of `export --web` in a browser.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { browser, difference, folder, npy, open, program, serious, served } from "./browser.mjs";

/** On [-1, 1], after all steps: the engine there adds and multiplies where this machine's fuses, and takes its
 *  functions of doubles from another library. 15 steps were measured at 5e-6. */
const TOLERANCE = 1e-3;

const status = (page) => page.textContent("#status");

/** Waits for the end of a run that `change` starts. */
async function run(page, change) {
  await page.evaluate(() => (document.getElementById("status").textContent = ""));
  await change();
  await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("Done"), null, { timeout: 120_000 });
}

/** What the page saves as an array. */
async function saved(page, place) {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#save_npy")]);
  const file = join(place, "page.npy");
  await download.saveAs(file);
  return npy(file);
}

/** Sets a slider or a number as a hand does. */
async function set(page, name, value) {
  await page.fill(`#${name}`, String(value));
  await page.dispatchEvent(`#${name}`, "change");
}

test("the page gives the command line's images", async (t) => {
  const place = folder(t);
  const address = await served(t, "export", "--web", join(place, "site"), "--model", "fashion", "--serve", "0");
  const started = await browser(t);
  const { page, faults } = await open(started, address);
  await run(page, async () => {});

  const golden = (...words) => {
    program("sample", "fashion", "--npy", join(place, "want.npy"), "--out", join(place, "want.png"), "--quiet", ...words);
    return npy(join(place, "want.npy"));
  };
  await t.test("with the model's own sampler", async () => {
    const error = difference(await saved(page, place), golden("-n", "4"));
    assert.ok(error < TOLERANCE, `${error}`);
  });
  for (const [sampler, steps, eta, clip] of [["ddim", 6, 0.5], ["ddpm", 7], ["unipc", 5, undefined, "off"]]) {
    await t.test(`with ${sampler}`, async () => {
      await run(page, async () => {
        await page.selectOption("#sampler", sampler);
        await page.selectOption("#clip", clip ?? "");
        if (eta) await set(page, "eta", eta);
        await set(page, "steps", steps);
        await set(page, "seed", 11);
        await set(page, "count", 2);
      });
      const words = ["--sampler", sampler, "--steps", `${steps}`, ...(eta ? ["--eta", `${eta}`] : []), ...(clip ? ["--clip", clip] : [])];
      const error = difference(await saved(page, place), golden("-n", "2", "--seed", "11", ...words));
      assert.ok(error < TOLERANCE, `${error}`);
      // Its own words for the command, with the model, are these.
      const command = await page.textContent("#command");
      assert.equal(command, ["performer-ddpm sample -n 2 --seed 11", ...words, "--npy images.npy"].join(" "));
    });
  }
  await t.test("for what is painted anew", async () => {
    await run(page, async () => {
      await page.check("[name=mode][value=inpaint]");
      await page.selectOption("#garment", "9");
      await page.selectOption("#sampler", "ddim");
      await page.selectOption("#clip", "");
      await set(page, "eta", 0);
      await set(page, "steps", 6);
      await set(page, "count", 1);
    });
    const got = await saved(page, place);
    // The picture and the mask as the page has them: the last garment of the strip, the lower half white.
    const picture = await page.evaluate(async () => {
      const strip = await createImageBitmap(await (await fetch("garments.png")).blob());
      const canvas = new OffscreenCanvas(28, 28);
      canvas.getContext("2d").drawImage(strip, -9 * 28, 0);
      return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
    });
    const mask = `P5\n28 28\n255\n${"\0".repeat(392)}`;
    writeFileSync(join(place, "boot.png"), Buffer.from(picture));
    writeFileSync(join(place, "mask.pgm"), Buffer.concat([Buffer.from(mask, "latin1"), Buffer.alloc(392, 255)]));
    const words = ["--sampler", "ddim", "--steps", "6", "--jump", "5", "--resample", "3", "--seed", "11", "--eta", "0"];
    const out = ["--npy", join(place, "want.npy"), "--out", join(place, "want.png"), "--quiet", "--model", "fashion"];
    program("edit", "inpaint", join(place, "boot.png"), "--mask", join(place, "mask.pgm"), ...words, ...out);
    const error = difference(got, npy(join(place, "want.npy")));
    assert.ok(error < TOLERANCE, `${error}`);
  });
  assert.deepEqual(faults, []);
});

test("its controls do what they say", async (t) => {
  const place = folder(t);
  const address = await served(t, "export", "--web", join(place, "site"), "--model", "fashion", "--serve", "0");
  const started = await browser(t);
  const { page, faults } = await open(started, address);
  await run(page, async () => {});

  await t.test("every step can be looked at, with its equation", async () => {
    await set(page, "scrub", 3);
    assert.match(await page.textContent("#step_title"), /^Step 3 of 15, t = 867$/);
    const formulas = await page.locator("#equation math").count();
    assert.ok(formulas >= 4, `${formulas} formulas`);
    assert.match(await page.textContent("#equation math.numbers"), /867/);
    const inside = await page.evaluate(() => {
      const canvas = document.querySelector("#lanes canvas");
      return new Set(canvas.getContext("2d").getImageData(0, 0, 28, 28).data).size;
    });
    assert.ok(inside > 50, "x_t is drawn");
  });
  await t.test("a slider moves by the keyboard and runs", async () => {
    await run(page, async () => {
      await page.focus("#steps");
      await page.keyboard.press("ArrowLeft");
    });
    assert.equal(await page.inputValue("#steps_number"), "14");
    assert.match(await status(page), /^Done: 14 calls/);
  });
  await t.test("both attentions run side by side", async () => {
    await run(page, () => page.check("[name=attention][value=both]"));
    assert.equal(await page.locator(".lane").count(), 2);
    assert.match(await status(page), /differ by 0\.\d+/);
  });
  await t.test("the mask is painted by pointer and by keys", async () => {
    await run(page, async () => {
      await page.check("[name=attention][value=own]");
      await page.check("[name=mode][value=inpaint]");
      await set(page, "steps", 4);
    });
    await page.click("[data-mask=none]");
    await page.click("#run");
    await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("Mark"));
    await run(page, () => page.click("#mask", { position: { x: 40, y: 40 } }));
    await page.click("[data-mask=none]");
    await run(page, async () => {
      await page.focus("#mask");
      await page.keyboard.press("ArrowUp");
      await page.keyboard.press("Space");
    });
  });
  await t.test("a run can be stopped, and the page goes on", async () => {
    await page.check("[name=mode][value=sample]");
    await page.selectOption("#sampler", "ddpm");
    await set(page, "steps_number", 1000);
    await page.waitForFunction(() => document.querySelector("progress").value > 2);
    await page.click("#stop");
    assert.equal(await status(page), "Stopped.");
    await run(page, () => set(page, "steps_number", 5));
  });
  assert.deepEqual(faults, []);
});

test("a model with classes has a row for each and can be led", async (t) => {
  const place = folder(t);
  const model = join(place, "run");
  program("train", "--classes", "--preset", "tiny", "--steps", "4", "--out", model, "--quiet");
  const address = await served(t, "export", "--web", join(place, "site"), "--model", model, "--serve", "0");
  const started = await browser(t);
  const { page, faults } = await open(started, address);
  await run(page, async () => {});
  assert.equal(await page.locator(".by_class").first().locator("canvas").count(), 10);
  await run(page, async () => {
    const boxes = page.locator("#classes input");
    for (let i = 0; i < 10; i++) if (i !== 3 && i !== 8) await boxes.nth(i).uncheck();
    await set(page, "guidance", 2);
    await set(page, "steps", 5);
    await set(page, "seed", 4);
  });
  assert.deepEqual(await page.locator(".by_class").first().locator("span").allTextContents(), ["Dress", "Bag"]);
  const want = join(place, "want.npy");
  program("sample", model, "-n", "4", "--class", "Dress,Bag", "--guidance", "2", "--steps", "5", "--seed", "4", "--npy", want, "--out", join(place, "a.png"), "--quiet");
  const error = difference(await saved(page, place), npy(want));
  assert.ok(error < TOLERANCE, `${error}`);

  await t.test("a folder of one's own takes its place", async () => {
    await run(page, () => page.setInputFiles("#folder", join(place, "site", "model")));
    assert.match(await page.textContent("#model"), /^model: /);
  });
  await t.test("a folder that is none is refused, and the model stays", async () => {
    await page.setInputFiles("#folder", import.meta.dirname);
    await page.waitForFunction(() => document.getElementById("status").textContent.includes("unet/config.json"));
    await run(page, () => page.click("#next"));
  });
  assert.deepEqual(faults, []);
});

test("it is read on a phone, in the dark and by all", async (t) => {
  const place = folder(t);
  const address = await served(t, "export", "--web", join(place, "site"), "--model", "fashion", "--serve", "0");
  const started = await browser(t);
  for (const colorScheme of ["light", "dark"]) {
    const { page, faults } = await open(started, address, { viewport: { width: 390, height: 844 }, colorScheme });
    await run(page, async () => {});
    for (const mode of ["sample", "inpaint"]) {
      await run(page, async () => {
        await page.check(`[name=mode][value=${mode}]`);
        await set(page, "steps_number", 3);
      });
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(width <= 390, `${mode}, ${colorScheme}: ${width} pixels wide`);
      assert.deepEqual(await serious(page), [], `${mode}, ${colorScheme}`);
    }
    if (process.env.SCREENSHOTS) await page.screenshot({ path: join(process.env.SCREENSHOTS, `web-${colorScheme}.png`), fullPage: true });
    assert.deepEqual(faults, []);
    await page.close();
  }
});
