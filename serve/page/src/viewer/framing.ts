// Between a look, which knows no pixels of the screen, and the place of the picture in its pane.

import type { Look } from "../looks";
import type { Picture } from "../pixels";

export interface Size {
  width: number;
  height: number;
}

/** The picture's pixel (0, 0) lies at (x, y) of the pane, px; `scale` is px of the screen for a column. */
export interface Place {
  scale: number;
  x: number;
  y: number;
}

/** Room around a picture that is fitted, px. */
const ROOM = 8;

export function fitScale(picture: Picture, pane: Size): number {
  const across = (pane.width - 2 * ROOM) / picture.columns;
  const down = (pane.height - 2 * ROOM) / (picture.rows * picture.aspect);
  return Math.max(0.01, Math.min(across, down));
}

export function placeOf(picture: Picture, pane: Size, look: Look): Place {
  const scale = fitScale(picture, pane) * look.zoom;
  return {
    scale,
    x: pane.width / 2 - look.x * picture.columns * scale,
    y: pane.height / 2 - look.y * picture.rows * picture.aspect * scale,
  };
}

export function frameOf(picture: Picture, pane: Size, place: Place): Pick<Look, "zoom" | "x" | "y"> {
  return {
    zoom: place.scale / fitScale(picture, pane),
    x: (pane.width / 2 - place.x) / (picture.columns * place.scale),
    y: (pane.height / 2 - place.y) / (picture.rows * picture.aspect * place.scale),
  };
}

/** The column and row under a point of the pane. */
export function pixelAt(picture: Picture, place: Place, point: [number, number]): [number, number] {
  return [(point[0] - place.x) / place.scale, (point[1] - place.y) / (place.scale * picture.aspect)];
}
