// A spine from its file to grades, and the hotspots of one grade through the slices.

import { give, grey, inBrowser, painted, region } from "./browser.mjs";

await inBrowser(async (page, given) => {
  await page.getByRole("button", { name: "Spines" }).click();
  const spine = region(page, "Spine");
  await give(spine, given.files);
  await page.locator(".pane:visible .stage").waitFor();
  await page.getByRole("button", { name: "Read the spine" }).click();
  const answer = page.getByRole("region", { name: "Answer" }).locator("visible=true");
  await answer.getByRole("heading", { name: "Grades" }).waitFor({ timeout: 240_000 });
  const slider = page.getByRole("slider", { name: "Slice" });
  const [slice, column, row] = given.pixel;
  await slider.fill(String(slice + 1));
  await painted(page);
  const facts = {
    grades: await answer.locator("tbody tr").evaluateAll((rows) =>
      rows.map((each) => [...each.querySelectorAll("th, td")].map((cell) => cell.querySelector("b")?.innerText ?? cell.innerText)),
    ),
    bodies: await spine.locator(".bodies b").allInnerTexts(),
    grey: await grey(page, column, row),
    slices: Number(await slider.getAttribute("max")),
    told: await spine.getByRole("status").innerText(),
    warnings: await answer.locator(".warnings li").allInnerTexts(),
  };
  if (given.choose) {
    await answer.getByRole("button", { name: given.choose }).click();
    await page.locator(".map canvas").waitFor();
    facts.chosen = await answer.locator(".chosen h3").innerText();
    facts.marks = await page.locator(".mark text").allTextContents();
    facts.hotspots = [];
    for (let place = 1; place <= facts.slices; place++) {
      await slider.fill(String(place));
      await painted(page);
      facts.hotspots.push(await page.locator(".map").evaluateAll((all) => all.map((each) => each.style.transform)));
    }
    // By key from the last slice to the first.
    await page.locator(".pane:visible").focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("]");
    facts.keyed = await slider.inputValue();
    await slider.fill(String(given.shown + 1));
    await painted(page);
  }
  return facts;
});
