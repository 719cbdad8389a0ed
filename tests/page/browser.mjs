// A real browser for one scenario: given JSON as its argument, it prints what it saw as JSON for pytest to judge.

import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";

const inPage = createRequire(new URL("../../serve/page/package.json", import.meta.url));
const { chromium } = inPage("playwright-core");

/** Run `scenario(page, given)`, which returns facts; beside them it tells what the page asked of others or complained of. */
export async function inBrowser(scenario) {
  const given = JSON.parse(process.argv[2]);
  const browser = await chromium.launch({
    executablePath: given.chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
  });
  try {
    const [width, height] = given.size ?? [1440, 900];
    const context = await browser.newContext({ viewport: { width, height } });
    context.setDefaultTimeout(60_000);
    const page = await context.newPage();
    const strangers = [];
    const complaints = [];
    page.on("request", (request) => {
      if (!request.url().startsWith(given.url) && !/^(data|blob):/.test(request.url())) {
        strangers.push(request.url());
      }
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      // The browser itself notes each answer that is no success.
      if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) {
        complaints.push(message.text());
      }
    });
    await page.goto(`${given.url}/`);
    const facts = await scenario(page, given);
    if (given.picture) {
      await page.screenshot({ path: given.picture });
    }
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    console.log(JSON.stringify({ ...facts, strangers, complaints, wide, violations: await violations(page) }));
  } finally {
    await browser.close();
  }
}

/** What axe-core finds. Evaluated rather than added as a script, which the content security policy forbids. */
async function violations(page) {
  await page.evaluate(await readFile(inPage.resolve("axe-core/axe.min.js"), "utf8"));
  const found = await page.evaluate(() => globalThis.axe.run());
  return found.violations
    .filter(({ impact }) => impact === "serious" || impact === "critical")
    .map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target.join(" ")).join(", ")}`);
}

export const region = (page, name) => page.getByRole("region", { name, exact: true });

/** Give files to the first place for files within a part of the page, or to another one. */
export async function give(within, paths, place = 0) {
  await within.locator("input[type=file]").nth(place).setInputFiles(paths);
}

/** The grey value that a pane shows at a column and row of its picture. */
export function grey(page, column, row, pane = 0) {
  return page
    .locator(".pane:visible .stage > canvas")
    .nth(pane)
    .evaluate((canvas, [x, y]) => canvas.getContext("2d").getImageData(x, y, 1, 1).data[0], [column, row]);
}

/** Where a picture lies on the screen: x, y, and px of the screen for a column and a row. */
export function placed(page, pane = 0) {
  return page
    .locator(".pane:visible .stage > canvas")
    .nth(pane)
    .evaluate((canvas) => {
      const { x, y, width, height } = canvas.getBoundingClientRect();
      return { x, y, across: width / canvas.width, down: height / canvas.height };
    });
}

/** Two frames: what was asked for is painted. */
export const painted = (page) =>
  page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));

/** Every meter within a part of the page: what it is of, its value and its words. */
export const meters = (within) =>
  within.getByRole("meter").evaluateAll((all) =>
    all.map((each) => [
      each.getAttribute("aria-label"),
      Number(each.getAttribute("aria-valuenow")),
      each.getAttribute("aria-valuetext"),
    ]),
  );
