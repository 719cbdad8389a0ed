// A server that asks for tokens: asked once, refused once, kept for the tab; help by key alone.

import { inBrowser } from "./browser.mjs";

await inBrowser(async (page, given) => {
  const token = page.locator("input[name=token]");
  await token.fill("wrong");
  await page.getByRole("button", { name: "Go on" }).click();
  const refused = await page.getByText("The token was not accepted.").innerText();
  await token.fill(given.token);
  await token.press("Enter");
  await page.getByRole("button", { name: "Studies" }).waitFor();
  const kept = await page.evaluate(() => ({
    tab: Object.values(sessionStorage),
    machine: Object.values(localStorage),
    cookies: document.cookie,
  }));
  await page.reload();
  await page.getByRole("button", { name: "Studies" }).waitFor();
  const again = await page.locator("input[name=token]").count();
  await page.keyboard.press("?");
  const help = page.getByRole("dialog", { name: "Keys and pointers" });
  await help.waitFor();
  const keys = await help.locator("kbd").count();
  await page.keyboard.press("Escape");
  await help.waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Models" }).press("Enter");
  const cards = page.getByRole("dialog", { name: "Models" });
  await cards.getByRole("heading").nth(1).waitFor();
  const card = await cards.locator(".markdown").innerHTML();
  return { refused, kept, again, keys, card };
});
