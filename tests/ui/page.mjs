// Drives the page of `vadpipe ui` in Chromium: node page.mjs URL COMMAND…
//
// COMMAND is a run of the pipeline that takes some seconds. Fails at the first story that is not as told, and at any
// message in the console of the browser.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { accessSync } from "node:fs";
import { chromium } from "playwright-core";

const [url, ...run] = process.argv.slice(2);
const executablePath = ["chromium", "chromium-browser", "google-chrome"].map((name) => `/usr/bin/${name}`).find((path) => {
  try { accessSync(path); return true; } catch { return false; }
});
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const complaints = [];

async function open(options = {}) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 }, ...options });
  // An answer that refuses a filter is a message, too.
  page.on("console", (message) => { if (!/status of 400/.test(message.text())) complaints.push(message.text()); });
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("response", (answer) => { if (answer.status() >= 401) complaints.push(`${answer.status()} ${answer.url()}`); });
  page.setDefaultTimeout(30_000);
  await page.goto(url);
  await page.waitForSelector(".line");
  return page;
}

const stories = {
  async "the token leaves the address"(page) {
    assert.equal(new URL(page.url()).search, "");
  },

  async "the filter leaves the points that meet it"(page) {
    await page.fill("#where", "lr<0.005 && stage=net");
    await page.waitForFunction(() => document.querySelector("#count").textContent.startsWith("2 of 4"));
    assert.equal(await page.locator(".lines .line").count(), 2);
    await page.fill("#where", "lss<1");
    await page.waitForFunction(() => document.querySelector("#where-problem").textContent.includes("did you mean `loss`?"));
    await page.fill("#where", "");
    await page.waitForFunction(() => document.querySelector("#count").textContent === "4 points");
  },

  async "the table scrolls inside its frame"(page) {
    const [frame, window] = await page.evaluate(() => [document.querySelector(".grid").clientHeight, innerHeight]);
    assert.ok(frame > 200 && frame < window, `${frame} of ${window}`);
    assert.ok(await page.evaluate(() => document.documentElement.scrollHeight <= innerHeight));
  },

  async "a column sorts the table"(page) {
    const losses = async () => {
      const labels = await page.locator(".head [role=columnheader]").allInnerTexts();
      const at = labels.findIndex((label) => label.startsWith("loss") && !label.startsWith("loss_"));
      const lines = await page.locator(".lines .line").all();
      const texts = await Promise.all(lines.map((line) => line.locator(".cell").nth(at).innerText()));
      return texts.filter(Boolean).map(Number);
    };
    await page.getByRole("button", { name: "loss", exact: true }).click();
    await page.waitForSelector("[aria-sort=ascending]");
    const up = await losses();
    assert.deepEqual(up, [...up].sort((a, b) => a - b));
    await page.getByRole("button", { name: /^loss ↑/ }).click();
    await page.waitForSelector("[aria-sort=descending]");
    assert.deepEqual(await losses(), up.reverse());
    assert.match(await page.evaluate(() => document.activeElement.textContent), /^loss ↓/, "the button keeps the focus");
  },

  async "no request is longer than a server accepts"(page) {
    const lists = await page.evaluate(async () => (await import("/assets/api.js")).parts(Array.from({ length: 20000 }, (_, id) => id)));
    assert.equal(lists.flat().length, 20000);
    assert.ok(lists.length > 1 && lists.every((list) => list.join(",").length < 30000));
  },

  async "a hidden page leaves its connection and catches up later"(page) {
    const hide = (is) => page.evaluate((is) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => is });
      document.dispatchEvent(new Event("visibilitychange"));
    }, is);
    await hide(true);
    const asked = page.waitForRequest((request) => request.url().endsWith("/api/points"));
    await hide(false);
    await asked;
    await page.waitForFunction(() => document.querySelector("#live").textContent === "live");
  },

  async "the keyboard alone selects, sets a baseline and opens a point"(page) {
    await page.keyboard.press("/");
    assert.equal(await page.evaluate(() => document.activeElement.id), "where");
    await page.keyboard.press("Escape");
    await page.focus(".grid");
    await page.keyboard.press("Home");
    await page.keyboard.press("Space");
    await page.keyboard.press("b");
    await page.waitForSelector(".pinned .line");
    await page.waitForSelector(".difference");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Space");
    assert.equal(await page.locator(".line.selected").count(), 3, "two lines, and the baseline");
    const name = await page.locator(".line.active .name").innerText();
    await page.keyboard.press("Enter");
    await page.waitForSelector(".point-name");
    assert.equal(await page.locator(".point-name").innerText(), name);
    await page.focus("nav [data-view=points]");
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction(() => location.hash === "#curves" && document.activeElement.dataset.view === "curves");
  },

  async "a point shows its pictures and is compared with the baseline"(page) {
    await page.evaluate(() => { location.hash = "points"; });
    await page.locator(".lines .line").filter({ hasText: "net@lr=0.001" }).first().locator("a").click();
    await page.waitForSelector("img[alt='their reconstructions']");
    await page.locator("img[alt=originals]").first().scrollIntoViewIfNeeded();
    await page.waitForFunction(() => [...document.querySelectorAll(".pair img")].some((image) => image.naturalWidth > 50));
    const text = await page.locator("main").innerText();
    assert.match(text, /What differs from net@lr=|What changed since/);
    assert.match(text, /What its key is made of/);
    await page.waitForSelector(".multiples canvas");
    const kept = page.getByLabel("Kept epoch");
    await kept.focus();
    const last = await page.locator("output").innerText();
    await page.keyboard.press("ArrowLeft");
    await page.waitForFunction((last) => document.querySelector("output").textContent !== last, last);
    await page.waitForFunction(() => { const image = document.querySelector("img[alt^='reconstructions after']"); image.scrollIntoView(); return image.naturalWidth > 50; });
  },

  async "tags and notes stay with a point, and the filter finds tags"(page) {
    await page.evaluate(() => { location.hash = "points"; });
    await page.waitForSelector(".lines .line");
    await page.evaluate(() => { for (const box of document.querySelectorAll(".lines .line.selected input")) box.click(); });
    const line = page.locator(".lines .line").filter({ hasText: "net@lr=0.001" }).first();
    await line.locator("input").click();
    await page.getByLabel("Tag for the selected points").fill("<b>best</b>");
    await page.keyboard.press("Enter");
    await line.locator(".tag").waitFor();
    await page.fill("#where", 'tag="<b>best</b>"');
    await page.waitForFunction(() => document.querySelector("#count").textContent.startsWith("1 of 4"));
    await page.fill("#where", 'tag!="<b>best</b>"');
    await page.waitForFunction(() => document.querySelector("#count").textContent.startsWith("3 of 4"));
    await page.fill("#where", "");
    await line.locator("a").click();
    await page.getByLabel("Note", { exact: true }).fill("the paper\nuses it");
    await page.waitForFunction(() => document.querySelector(".noted .note").textContent === "Saved.");
    await page.reload();
    await page.waitForFunction(() => document.querySelector(".noted textarea")?.value === "the paper\nuses it");
    await page.getByRole("button", { name: "Remove the tag <b>best</b>" }).click();
    await page.waitForFunction(() => !document.querySelector(".noted .tag"));
  },

  async "the chain shows what trainings share"(page) {
    await page.evaluate(() => { location.hash = "chain"; });
    await page.waitForSelector(".chain .trained.new", { state: "attached" });
    assert.match(await page.locator(".figures").innerText(), /6\nepochs taken from the cache/);
    assert.ok(await page.locator(".chain .resumed").count() >= 3);
  },

  async "a running training has a curve that grows"(page) {
    await page.evaluate(() => { location.hash = "curves"; });
    await page.waitForSelector(".chart canvas");
    // Zooms to a part. The run must leave the plot and its zoom as they are.
    const plot = await page.locator(".u-over").boundingBox();
    const at = (share) => [plot.x + plot.width * share, plot.y + plot.height / 2];
    await page.mouse.move(...at(0.4));
    await page.mouse.down();
    await page.mouse.move(...at(0.6));
    await page.mouse.move(...at(0.9));
    await page.mouse.up();
    await page.evaluate(() => { document.querySelector(".u-over").dataset.known = "yes"; });
    await page.mouse.move(...at(1.5));
    const child = spawn(run[0], run.slice(1), { stdio: "ignore" });
    const ended = new Promise((resolve) => child.on("exit", resolve));
    const epochs = () => page.evaluate(async () => {
      const answer = await fetch("/api/points");
      return Math.max(...(await answer.json()).rows.map((row) => row.epoch ?? 0));
    });
    await page.waitForFunction(() => /[5-9]|\d\d/.test(document.querySelector(".chart").getAttribute("aria-label")) || document.querySelector(".readout").innerText.includes("lr="));
    const before = await page.locator(".values").innerText();
    while (await epochs() <= 4) await page.waitForTimeout(100);
    await page.waitForFunction((text) => document.querySelector(".values")?.innerText !== text, before);
    assert.equal(await ended, 0);
    await page.waitForFunction(() => document.querySelector(".u-axis") !== null);
    assert.equal(await page.locator(".u-over").getAttribute("data-known"), "yes", "the plot is drawn anew");
    await page.mouse.move(...at(0.02));
    await page.waitForFunction(() => /epoch [2-9]/.test(document.querySelector(".readout b").textContent));
    await page.mouse.dblclick(...at(0.02));
    await page.mouse.move(...at(0.01));
    await page.waitForFunction(() => document.querySelector(".readout b").textContent === "epoch 1");
  },

  async "a chart without curves says why, and has them again"(page) {
    await page.selectOption("label:has-text('Across') select", "epoch");
    await page.fill("#where", "stage=data");
    await page.waitForFunction(() => /None of these points has/.test(document.querySelector(".chart").innerText));
    await page.fill("#where", "");
    await page.waitForSelector(".chart canvas");
  },

  async "the graph and the runs are there"(page) {
    await page.evaluate(() => { location.hash = "graph"; });
    await page.waitForSelector(".stages .edge", { state: "attached" });
    await page.evaluate(() => { location.hash = "runs"; });
    await page.waitForSelector("table.runs tbody tr");
    assert.ok(await page.locator("table.runs tbody tr").count() >= 3);
    // What users write is text.
    assert.match(await page.locator("table.runs").innerText(), /<img src=x onerror=alert\(1\)>/);
    assert.equal(await page.locator("table.runs img").count(), 0);
  },

  async "brushing an axis selects points"(page) {
    await page.evaluate(() => { location.hash = "parameters"; });
    const area = page.locator(".axis-area").first();
    await area.waitFor();
    await area.focus();
    for (let step = 0; step < 8; step += 1) await page.keyboard.press("ArrowUp");
    await page.waitForFunction(() => /^\d of \d points selected/.test(document.querySelector("main .note").textContent));
    await page.waitForSelector(".importance h2");
    assert.equal(await area.getAttribute("aria-valuenow"), "40");
  },
};

const page = await open();
for (const [title, story] of Object.entries(stories)) {
  await story(page).catch((error) => { throw new Error(`${title}: ${error.stack}`); });
  assert.deepEqual(complaints, [], title);
}
await page.close();
// No view is wider than the screen, whatever the screen and the scheme.
for (const width of [390, 800, 1280, 2560]) {
  for (const colorScheme of ["light", "dark"]) {
    const small = await open({ viewport: { width, height: 844 }, colorScheme });
    for (const view of ["points", "curves", "parameters", "chain", "graph", "runs", "point/1"]) {
      await small.evaluate((hash) => { location.hash = hash; }, view);
      await small.waitForTimeout(150);
      const [needed, there] = await small.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(needed <= there, `${view} is ${needed} pixels wide on a screen of ${there}`);
    }
    await small.close();
  }
}
assert.deepEqual(complaints, []);
await browser.close();
