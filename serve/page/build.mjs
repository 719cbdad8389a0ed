// Builds the page into the package: one script, one style sheet, index.html, icon and the licences of what is inside.
//
//     npm ci && npm run build
//
// Nothing in the result asks for a network: the server's content security policy allows its own files alone.

import { readFile, readdir, rm, writeFile, cp, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "../../mskray/serving/page");

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome109", "firefox115", "safari16.4"],
  charset: "utf8",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  metafile: true,
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) {
  await cp(join(here, "src", name), join(out, name));
}

/** Folders of the packages whose code is in the result. */
const packages = new Set(
  Object.keys(metafile.inputs)
    .map((path) => /^node_modules\/(?:@[^/]+\/)?[^/]+/.exec(path)?.[0])
    .filter(Boolean),
);
const licences = [];
for (const folder of [...packages].sort()) {
  const { name, version, license } = JSON.parse(await readFile(join(here, folder, "package.json"), "utf8"));
  const file = (await readdir(join(here, folder))).find((each) => /^licen[cs]e/i.test(each));
  if (!file) {
    throw new Error(`${name} has no licence file: it cannot be given on`);
  }
  const text = await readFile(join(here, folder, file), "utf8");
  licences.push(`${name} ${version} (${license})\n\n${text.trim()}\n`);
}
await writeFile(join(out, "licences.txt"), licences.join(`\n${"-".repeat(80)}\n\n`));

const sizes = Object.entries(metafile.outputs).map(([path, { bytes }]) => `${path.split("/").at(-1)} ${bytes} bytes`);
console.log(`${sizes.join(", ")}; ${packages.size} packages`);
