// A file that is no picture; then a server that has too much to do for a moment, held up by a request without an end.

import { request } from "node:http";

import { give, inBrowser, region } from "./browser.mjs";

await inBrowser(async (page, given) => {
  const study = region(page, "Study");
  await give(study, given.broken);
  const alert = study.getByRole("alert");
  await alert.locator(".refusal").waitFor();
  const facts = { refused: await alert.innerText() };
  await give(study, given.files);
  await page.locator(".pane:visible .stage").waitFor();
  facts.cleared = await alert.innerText();

  const held = request(`${given.url}/v1/studies`, {
    method: "POST",
    headers: { "Content-Type": "multipart/form-data; boundary=x", "Content-Length": "1000" },
  });
  held.on("error", () => undefined); // it is cut off below
  held.write('--x\r\nContent-Disposition: form-data; name="views"; filename="a.png"\r\n\r\n');
  await new Promise((done) => setTimeout(done, 500));
  await page.getByLabel("Evidence").selectOption("");
  await page.getByRole("button", { name: "Read the study" }).click();
  const waiting = study.getByText("asking again");
  await waiting.waitFor();
  facts.waiting = await waiting.innerText();
  held.destroy();
  await region(page, "Answer").locator(".called").waitFor();
  facts.called = await region(page, "Answer").locator(".called").innerText();
  return facts;
});
