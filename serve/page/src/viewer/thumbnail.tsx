// A picture small enough for a list.

import { useEffect, useRef } from "preact/hooks";

import { FIRST_LOOK, paint } from "../looks";
import type { Picture } from "../pixels";

const SIDE = 96;

export function Thumbnail({ picture }: { picture: Picture | null }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    if (!picture) {
      return;
    }
    const whole = new OffscreenCanvas(picture.columns, picture.rows);
    const context = whole.getContext("2d")!;
    const image = context.createImageData(picture.columns, picture.rows);
    paint(picture, 0, FIRST_LOOK, image);
    context.putImageData(image, 0, 0);
    const scale = Math.min(SIDE / picture.columns, SIDE / picture.rows);
    const [width, height] = [picture.columns * scale, picture.rows * scale];
    const small = canvas.current!.getContext("2d")!;
    small.clearRect(0, 0, SIDE, SIDE);
    small.imageSmoothingQuality = "high";
    small.drawImage(whole, (SIDE - width) / 2, (SIDE - height) / 2, width, height);
  }, [picture]);
  return <canvas ref={canvas} width={SIDE} height={SIDE} aria-hidden="true" />;
}
