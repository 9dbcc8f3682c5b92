// From an image to probabilities, as `pocketvit predict` does it.

const about = JSON.parse(document.getElementById("about").textContent);
const { height, width, channels } = about;
const WARM_UP = 3; // runs that are not timed: the browser compiles while it runs
const BAND = 64; // rows of an image that are taken apart at a time: a canvas may not hold a whole photograph

/** Bytes of a part of this page, which holds them compressed. */
async function unpacked(id) {
  const text = atob(document.getElementById(`packed-${id}`).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The model, ready to run, and the runtime that it needs. */
const loading = (async () => {
  const [module, program, model] = await Promise.all(["module", "program", "model"].map(unpacked));
  const ort = await import(URL.createObjectURL(new Blob([module], { type: "text/javascript" })));
  // Several threads need a server that sends isolation headers; a file on disk has none.
  Object.assign(ort.env.wasm, { wasmBinary: program, numThreads: 1 });
  return { ort, session: await ort.InferenceSession.create(model, { executionProviders: ["wasm"] }) };
})();

let running = Promise.resolve();

/** Logits, probabilities and where it looked, of pixels (C, H, W); one run at a time. */
function classify(pixels) {
  running = running.catch(() => {}).then(async () => {
    const { ort, session } = await loading;
    const found = await session.run({ pixels: new ort.Tensor("uint8", pixels, [1, channels, height, width]) });
    return Object.fromEntries(Object.entries(found).map(([name, tensor]) => [name, tensor.data]));
  });
  return running;
}

/** Milliseconds that an image takes, the mean of a few runs, or of many short ones: clocks are coarse here on purpose. */
async function latency(pixels, budget = 60, stopped = () => false) {
  for (let i = 0; i < WARM_UP && !stopped(); i++) await classify(pixels);
  const began = performance.now();
  let runs = 0;
  do {
    await classify(pixels);
    runs++;
  } while (!stopped() && (runs < 5 || performance.now() - began < budget));
  return { milliseconds: (performance.now() - began) / runs, runs };
}

/** Turned as its metadata say, its colours as they stand in the file: what Pillow gives. */
const decoded = (blob) => createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });

/** Pixels (C, H, W) of the model's size, of an ImageBitmap or a canvas of any. */
function scaled(image) {
  // Between the two passes values are rounded, so that their order shows: Pillow (from 13) begins with the side that
  // loses far more. Lines are what the first pass goes along: rows, or columns where that side is the height.
  const tall = image.height > height && image.height - height > 2 * (image.width - width);
  const [lines, length] = tall ? [image.width, image.height] : [image.height, image.width];
  const along = filter(length, tall ? height : width), over = filter(lines, tall ? width : height);
  const line = along.length * channels;
  const half = new Uint8ClampedArray(lines * line);
  for (let first = 0; first < lines; first += BAND) {
    const count = Math.min(BAND, lines - first);
    const values = tall ? read(image, first, 0, count, length) : read(image, 0, first, length, count);
    const [step, across] = tall ? [count * channels, channels] : [channels, length * channels];
    weigh(values, along, half.subarray(first * line), { lines: count, line: across, step, each: channels });
  }
  const whole = new Uint8ClampedArray(over.length * line);
  weigh(half, over, whole, { lines: 1, line: 0, step: line, each: line });
  const pixels = new Uint8Array(whole.length);
  for (let c = 0, o = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) pixels[o++] = whole[(tall ? x * height + y : y * width + x) * channels + c];
    }
  }
  return pixels;
}

/** A part of an image, (H, W, C), over what lies behind transparent pixels. */
function read(image, left, top, wide, high) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [wide, high];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = `rgb(${about.background} ${about.background} ${about.background})`;
  context.fillRect(0, 0, wide, high);
  context.drawImage(image, -left, -top);
  return separated(context.getImageData(0, 0, wide, high).data);
}

/** RGBA without its last; or grey, by Pillow's weights (ITU-R 601-2). */
function separated(rgba) {
  const values = new Uint8Array((rgba.length / 4) * channels);
  for (let i = 0, o = 0; i < rgba.length; i += 4) {
    const [r, g, b] = [rgba[i], rgba[i + 1], rgba[i + 2]];
    if (channels === 1) values[o++] = (19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16;
    else (values[o++] = r), (values[o++] = g), (values[o++] = b);
  }
  return values;
}

/** Pillow's bicubic filter, which widens itself where it reduces: for each place the first that it reads, and weights. */
function filter(from, to) {
  if (from === to) return Array.from({ length: to }, (_, first) => ({ first, weights: [1 << 22] }));
  const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0);
  const scale = from / to, wide = Math.max(scale, 1), support = 2 * wide;
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(from, Math.trunc(center + support + 0.5));
    const found = Array.from({ length: last - first }, (_, i) => cubic(Math.abs((first + i - center + 0.5) * (1 / wide))));
    const sum = found.reduce((a, b) => a + b, 0);
    // Rounded away from zero to multiples of 2^-22, as there.
    return { first, weights: found.map((one) => Math.trunc((one / sum) * (1 << 22) + (one < 0 ? -0.5 : 0.5))) };
  });
}

/** Weighted sums along lines, `each` values at a time that lie `step` from their neighbours; out are the lines one by one. */
function weigh(values, places, out, { lines, line, step, each }) {
  for (let row = 0; row < lines; row++) {
    places.forEach(({ first, weights }, place) => {
      for (let c = 0; c < each; c++) {
        let sum = 1 << 21;
        for (let i = 0, at = row * line + first * step + c; i < weights.length; i++, at += step) sum += weights[i] * values[at];
        out[(row * places.length + place) * each + c] = sum >> 22;
      }
    });
  }
}

// For whoever tests this page, or scripts it.
globalThis.pocketvit = {
  about, classify, latency, loading,
  async predict(blob) {
    const pixels = scaled(await decoded(blob));
    return { pixels, ...(await classify(pixels)) };
  },
};
