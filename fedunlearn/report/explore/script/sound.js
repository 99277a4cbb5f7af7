// Held speech where the page carries its recording: play it, and see its spectrogram.

function soundOf(run, utterance) {
  const corpus = SOUND.corpora[run.name], clip = utterance.place === null ? null : SOUND.clips[`${corpus}:${utterance.place}`];
  if (!clip) {
    const some = Object.keys(SOUND.clips).length;
    return h("p", { class: "muted small" }, utterance.place === null
      ? "It belongs to someone who asked for a deletion: nothing of it but numbers is in this file."
      : some ? `The file carries the sound of ${some} utterances; this one is not among them.` : "The file carries no sound; make it with --corpus PATH.");
  }
  const canvas = h("canvas", { width: 720, height: 256, role: "img", "aria-label": "Spectrogram, 0 to 8 kHz upwards, time to the right" });
  const place = h("div", { id: "sound" }, h("audio", { controls: true, src: `data:${SOUND.kind};base64,${clip}` }), canvas,
    h("p", { class: "muted small" }, "Spectrogram: 0 to 8 kHz upwards, the whole recording from left to right."));
  drawSpectrogram(canvas, bytesOf(clip).buffer).then(
    () => { canvas.dataset.drawn = "yes"; },
    () => { canvas.replaceWith(h("p", { class: "muted small" }, "This browser cannot decode the recording.")); });
  return place;
}

async function drawSpectrogram(canvas, bytes) {
  const rate = 16000, context = new OfflineAudioContext(1, 1, rate);
  const samples = (await context.decodeAudioData(bytes)).getChannelData(0);
  const size = 512, bins = size / 2, pen = canvas.getContext("2d"), { width, height } = canvas;
  const window = Float32Array.from({ length: size }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / (size - 1)));
  const columns = Array.from({ length: width }, (_, column) => {
    const from = Math.round((column / width) * Math.max(0, samples.length - size));
    return powers(Float32Array.from({ length: size }, (_, n) => (samples[from + n] ?? 0) * window[n]));
  });
  let most = 1e-12;
  for (const column of columns) for (const power of column) most = Math.max(most, power);
  const image = pen.createImageData(width, height);
  for (let px = 0; px < width; px++) {
    for (let py = 0; py < height; py++) {
      const bin = Math.min(bins - 1, Math.floor(((height - 1 - py) / height) * bins));
      const level = Math.max(0, 1 + (10 * Math.log10(columns[px][bin] / most + 1e-12)) / 70); // 70 dB of range
      const at = 4 * (py * width + px);
      image.data[at] = 255 * Math.min(1, Math.max(0, 2.2 * level - 0.75));
      image.data[at + 1] = 255 * Math.min(1, Math.max(0, 1.8 * level - 0.85));
      image.data[at + 2] = 255 * Math.min(1, level < 0.45 ? 1.5 * level : Math.max(0.25, 1.1 - level) + Math.max(0, 3 * (level - 0.8)));
      image.data[at + 3] = 255;
    }
  }
  pen.putImageData(image, 0, 0);
}

/** Power of each frequency of a frame whose length is a power of two (radix-2 FFT). */
function powers(frame) {
  const n = frame.length, re = new Float64Array(n), im = new Float64Array(n);
  for (let i = 0, j = 0; i < n; i++) {
    re[j] = frame[i];
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
  }
  for (let length = 2; length <= n; length *= 2) {
    for (let start = 0; start < n; start += length) {
      for (let k = 0; k < length / 2; k++) {
        const angle = (-2 * Math.PI * k) / length, c = Math.cos(angle), d = Math.sin(angle);
        const a = start + k, b = a + length / 2;
        const tr = re[b] * c - im[b] * d, ti = re[b] * d + im[b] * c;
        re[b] = re[a] - tr; im[b] = im[a] - ti; re[a] += tr; im[a] += ti;
      }
    }
  }
  return Array.from({ length: n / 2 }, (_, k) => re[k] ** 2 + im[k] ** 2);
}
