// The server's grey maps of evidence as coloured layers over a picture.

import { ask } from "../server";

/** A map and where its pixel (x, y) lies in the picture, as CSS's matrix(). */
export interface Layer {
  href: string;
  matrix: [number, number, number, number, number, number];
  image: HTMLCanvasElement;
}

// From dark violet over orange to pale yellow: lightness grows all the way, so that order needs no sight of hue.
const STOPS: [number, number, number][] = [
  [72, 12, 110],
  [150, 38, 110],
  [214, 70, 66],
  [248, 142, 20],
  [252, 230, 110],
];

const TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  const place = (value / 255) * (STOPS.length - 1);
  const first = Math.min(Math.floor(place), STOPS.length - 2);
  const [red, green, blue] = STOPS[first]!.map((from, channel) =>
    Math.round(from + (STOPS[first + 1]![channel]! - from) * (place - first)),
  ) as [number, number, number];
  // What is no evidence covers nothing.
  const alpha = Math.round(255 * Math.min(1, (value / 255) * 1.6));
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
});

/** Fetch a map and colour it. */
export async function fetchMap(href: string, signal?: AbortSignal): Promise<HTMLCanvasElement> {
  const blob = await (await ask(href, { signal })).blob();
  const bitmap = await createImageBitmap(blob);
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d")!;
  context.drawImage(bitmap, 0, 0);
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  const values = new Uint32Array(image.data.buffer);
  for (let place = 0; place < values.length; place++) {
    values[place] = TABLE[values[place]! & 255]!;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** How a map of its own resolution lies over a box of the picture. */
export function overBox(
  box: { x: number; y: number; width: number; height: number },
  image: HTMLCanvasElement,
): Layer["matrix"] {
  return [box.width / image.width, 0, 0, box.height / image.height, box.x, box.y];
}
