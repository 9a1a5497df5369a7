// The page's engine without a page: ENGINE=FILE.wasm for one that was just built.

import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { load } from "../../web/engine.mjs";
import { difference, folder, npy, program } from "./browser.mjs";

/** As in web.test.mjs. */
const TOLERANCE = 1e-3;

test("the engine gives the command line's images", (t) => {
  const place = folder(t);
  const { model, ask } = load(process.env.ENGINE);
  assert.equal(model.isa, "simd128");
  for (const [sampler, steps, words] of [
    [null, null, []],
    ["ddpm", 9, ["--sampler", "ddpm", "--steps", "9"]],
    ["unipc", 6, ["--sampler", "unipc", "--steps", "6"]],
  ]) {
    const want = join(place, "want.npy");
    program("sample", "fashion", "-n", "2", "--seed", "5", "--npy", want, "--out", join(place, "a.png"), "--quiet", ...words);
    // What the command line writes is cut to [-1, 1].
    const numbers = ask({ do: "sample", count: 2, seed: 5, sampler, steps }).at(-1).numbers.map((x) => Math.min(1, Math.max(-1, x)));
    const error = difference({ shape: [2, 1, 28, 28], numbers }, npy(want));
    t.diagnostic(`${sampler ?? model.sampler}: ${error.toExponential(1)} from the command line`);
    assert.ok(error < TOLERANCE, `${sampler}: ${error}`);
  }
});
