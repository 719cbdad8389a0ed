// Pictures and volumes as the server decoded them (numpy's .npy): the page knows no DICOM, and boxes fit exactly.

import { type Asked, ask } from "./server";

export interface Picture {
  /** slices × rows × columns, the last fastest. */
  data: Uint8Array | Uint16Array;
  slices: number;
  rows: number;
  columns: number;
  /** Height of a pixel over its width. */
  aspect: number;
  /** The darkest and the brightest value that a reader wants to see at first. */
  low: number;
  high: number;
}

/** Return the decoded pixels of a picture, or of one of a zip of them. */
export function fetchPicture(file: File, asked: Asked, index = 0): Promise<Picture> {
  return fetchPixels([file], `kind=picture&index=${index}`, asked);
}

/** Return the decoded pixels of the files of a volume. */
export function fetchVolume(files: File[], asked: Asked): Promise<Picture> {
  return fetchPixels(files, "kind=volume", asked);
}

async function fetchPixels(files: File[], query: string, asked: Asked): Promise<Picture> {
  const form = new FormData();
  files.forEach((file) => form.append("files", file, file.name));
  const response = await ask(`v1/pixels?${query}`, { ...asked, method: "POST", form });
  const spacing = response.headers.get("X-Spacing-Mm")?.split(",").map(Number) ?? [];
  return readNpy(await response.arrayBuffer(), spacing);
}

/** Read .npy, version 1 to 3, of uint8 or little-endian uint16 with two or three axes. */
export function readNpy(buffer: ArrayBuffer, spacing: number[]): Picture {
  const view = new DataView(buffer);
  if (buffer.byteLength < 12 || view.getUint32(0) !== 0x934e554d) {
    throw new Error("the server's pixels cannot be read: no .npy");
  }
  const old = view.getUint8(6) === 1;
  const length = old ? view.getUint16(8, true) : view.getUint32(8, true);
  const start = old ? 10 : 12;
  const header = new TextDecoder().decode(new Uint8Array(buffer, start, length));
  const type = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] ?? "").split(",").filter((part) => part.trim()).map(Number);
  const [columns = 0, rows = 0, slices = 1] = [...shape].reverse();
  const size = rows * columns * slices;
  const content = buffer.slice(start + length);
  const wide = type === "<u2";
  if ((!wide && type !== "|u1") || /True/.test(header) || !size || content.byteLength !== size * (wide ? 2 : 1)) {
    throw new Error(`the server's pixels cannot be read: ${type ?? "no type"}, shape ${shape.join(" × ")}`);
  }
  const data = wide ? new Uint16Array(content) : new Uint8Array(content);
  const [, down, across] = spacing;
  const aspect = down && across ? down / across : 1;
  return { data, slices, rows, columns, aspect, ...range(data) };
}

/** All values of 8 bits; of 16 bits those between the 0.5 % of both ends, which are marks and noise. */
function range(data: Uint8Array | Uint16Array): { low: number; high: number } {
  if (data instanceof Uint8Array) {
    return { low: 0, high: 255 };
  }
  const step = Math.max(1, Math.floor(data.length / 200_000));
  const sample = data.filter((_, place) => place % step === 0).sort();
  const low = sample[Math.floor(sample.length * 0.005)] ?? 0;
  const high = sample[Math.ceil(sample.length * 0.995) - 1] ?? 0;
  return { low, high: Math.max(high, low + 1) };
}
