// A pair side by side: both pictures follow one window and one framing.

import { give, grey, inBrowser, meters, painted, placed, region } from "./browser.mjs";

await inBrowser(async (page, given) => {
  await page.getByRole("button", { name: "Pairs" }).click();
  const pair = region(page, "Pair");
  await give(pair, given.before, 0);
  await give(pair, given.after, 1);
  await page.locator(".pane:visible .stage").nth(1).waitFor();
  await page.getByRole("button", { name: "Compare" }).click();
  const answer = page.getByRole("region", { name: "Answer" }).locator("visible=true");
  await answer.getByRole("heading", { name: "Votes" }).waitFor();
  const sides = [0, 1];
  const [column, row] = given.pixel;
  const facts = {
    called: await answer.locator(".called").innerText(),
    classes: await meters(answer.locator(".verdict")),
    votes: await meters(answer.locator(".members")),
    titles: await page.locator(".pane:visible .corner.top").allInnerTexts(),
    plain: await Promise.all(sides.map((side) => grey(page, column, row, side))),
  };
  await page.locator(".pane:visible").first().focus();
  await page.keyboard.press("i");
  await page.keyboard.press("+");
  await page.keyboard.press("ArrowLeft");
  await painted(page);
  facts.inverted = await Promise.all(sides.map((side) => grey(page, column, row, side)));
  facts.placed = await Promise.all(sides.map((side) => placed(page, side)));
  facts.panes = await page.locator(".pane:visible").evaluateAll((all) => all.map((each) => each.getBoundingClientRect()));
  return facts;
});
