// The engine in a thread of its own: so many functions of whole numbers and one buffer (web/engine/src/border.rs).

let engine;
let asked;

/** Called by the engine: a text and numbers in its memory, which are copied and passed on. */
function tell(text, textLength, numbers, numbersLength) {
  const { buffer } = engine.memory;
  const told = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, text, textLength)));
  const copied = new Float32Array(buffer.slice(numbers, numbers + 4 * numbersLength));
  postMessage({ asked, told, numbers: copied }, [copied.buffer]);
}

/** Writes bytes one after the other into the engine's buffer. */
function write(...parts) {
  let place = engine.reserve(parts.reduce((length, part) => length + part.length, 0));
  for (const part of parts) {
    new Uint8Array(engine.memory.buffer).set(part, place);
    place += part.length;
  }
}

function addFile([path, contents]) {
  const name = new TextEncoder().encode(path);
  write(name, contents);
  engine.add_file(name.length);
}

function answer(request, numbers = new Float32Array(0)) {
  const json = new TextEncoder().encode(JSON.stringify(request));
  write(json, new Uint8Array(numbers.buffer));
  engine.answer(json.length);
}

onmessage = async ({ data }) => {
  asked = data.asked;
  try {
    if (data.module) {
      engine = (await WebAssembly.instantiate(data.module, { env: { tell } })).exports;
      data.files.forEach(addFile);
      answer({ do: "load" });
    } else {
      answer(data.request, data.numbers);
    }
  } catch (error) {
    // The engine has told why, if it could; it is not used again.
    postMessage({ asked, told: { told: "broken", message: String(error) }, numbers: new Float32Array(0) });
  }
};
