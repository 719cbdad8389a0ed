// A study from its files to the answer, read with pointer and keyboard, then corrected.

import { give, grey, inBrowser, meters, painted, placed, region } from "./browser.mjs";

await inBrowser(async (page, given) => {
  const study = region(page, "Study");
  await give(study, given.files);
  await page.locator(".pane:visible .stage").waitFor();
  await page.getByLabel("Body part").selectOption(given.bodyPart);
  await page.getByRole("button", { name: "Read the study" }).click();
  const answer = region(page, "Answer");
  await answer.getByRole("heading", { name: "Votes" }).waitFor();
  await page.locator(".map canvas").waitFor();
  const facts = {
    called: await answer.locator(".called").innerText(),
    meters: await meters(answer.locator(".verdict")),
    votes: await meters(answer.locator(".members")),
    members: await answer.locator(".members h3").allInnerTexts(),
    reliability: await answer.locator(".members summary").allInnerTexts(),
    warnings: await answer.locator(".warnings li").allInnerTexts(),
    views: await study.locator(".thumbnails button").allInnerTexts(),
    told: await study.getByRole("status").innerText(),
  };

  // The picture as it is, inverted, and with a window that a drag made darker.
  const [column, row] = given.pixel;
  await page.keyboard.press("Escape");
  await page.locator(".pane:visible").focus();
  facts.plain = await grey(page, column, row);
  await page.keyboard.press("i");
  await painted(page);
  facts.inverted = await grey(page, column, row);
  await page.keyboard.press("i");
  const box = await page.locator(".pane:visible").boundingBox();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x, y + box.height / 4, { steps: 5 });
  await page.mouse.up();
  await painted(page);
  facts.darker = await grey(page, column, row);
  await page.keyboard.press("r");
  await painted(page);
  facts.reset = await grey(page, column, row);

  // Zoom by wheel about the pointer, by key, and back; pan by key.
  facts.fit = await placed(page);
  await page.mouse.move(x, y);
  await page.mouse.wheel(0, -240);
  await painted(page);
  facts.wheeled = await placed(page);
  facts.pointer = [x, y];
  await page.keyboard.press("0");
  await page.keyboard.press("+");
  await page.keyboard.press("ArrowRight");
  await painted(page);
  facts.keyed = await placed(page);
  await page.keyboard.press("0");
  await painted(page);

  // Evidence over the picture.
  const map = page.locator(".map");
  facts.opacity = [await map.evaluate((each) => each.style.opacity)];
  await page.keyboard.press(".");
  facts.opacity.push(await map.evaluate((each) => each.style.opacity));
  facts.map = await map.locator("canvas").evaluate((each) => {
    const [over, under] = [each, each.closest(".stage").querySelector("canvas")].map((one) => one.getBoundingClientRect());
    return [over.x - under.x, over.y - under.y, over.width / under.width, over.height / under.height];
  });
  await page.keyboard.press("e");
  facts.hidden = await map.count();
  await page.keyboard.press("e");

  // A correction: a box by pointer, one by keyboard alone.
  await answer.getByText("Correct the answer").click();
  await page.locator(".pane:visible").focus();
  await page.keyboard.press("b");
  const at = await placed(page);
  const corner = [at.x + 20 * at.across, at.y + 30 * at.down];
  await page.mouse.move(...corner);
  await page.mouse.down();
  await page.mouse.move(corner[0] + 24 * at.across, corner[1] + 16 * at.down, { steps: 4 });
  await page.mouse.up();
  const form = answer.locator(".feedback form");
  await form.getByRole("button", { name: "Add a box" }).press("Enter");
  await form.getByRole("group", { name: "Box 2" }).getByLabel("What").fill("plate");
  await form.getByLabel("normal", { exact: true }).check();
  await form.getByLabel("Why").fill("the line is a vessel, no fracture");
  facts.boxes = await page.locator(".mark.corrected").count();
  await form.getByRole("button", { name: "Send the correction" }).click();
  await answer.locator(".stored, .refusal").first().waitFor();
  facts.stored = await answer.locator(".stored, .refusal").first().innerText();

  // The next view by key.
  await page.locator(".pane:visible").focus();
  await page.keyboard.press("]");
  facts.next = await study.locator(".thumbnails [aria-current=true]").innerText();
  await painted(page);
  return facts;
});
