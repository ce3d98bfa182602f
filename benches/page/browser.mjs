// What the page of `vadpipe ui` takes: `node benches/page/browser.mjs path/to/vadpipe [--trainings N] [--epochs N] [--peers PYTHON [--only-peers]]`.
//
// The data are made, not trained: a program writes five metrics for each epoch. Each figure is measured in Chromium on
// this machine. With --peers, the same curves are shown by TensorBoard, trackio and Aim, as far as this Python has them.
// Needs Node and `npm ci` in tests/ui. Exits with code 1 if the page shows something wrong.
//
// - first paint: from the request to the first row of the table, and when the browser has painted something
// - filter: from a key in the filter to the changed table, with 10,000 rows
// - hover: frames a second while the pointer moves over the curves
// - live: from a logged epoch of a running training to its place in the table and in the curve
// - training: the time of a training with the page of its curves open, as a ratio to that without any page
// - memory: the resident memory of the server, its peak

import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";

const { chromium } = createRequire(new URL("../../tests/ui/package.json", import.meta.url))("playwright-core");

const args = process.argv.slice(2);
const option = (name, otherwise) => (args.includes(name) ? args[args.indexOf(name) + 1] : otherwise);
const vadpipe = args[0];
const [trainings, epochs] = [Number(option("--trainings", 1000)), Number(option("--epochs", 1000))];
const points = Number(option("--points", 10000));
const peers = option("--peers", null);
const metrics = ["loss", "accuracy", "kl", "norm", "rate"];

const folder = mkdtempSync(join(tmpdir(), "vadpipe-page-"));
const write = (name, text) => writeFileSync(join(folder, name), text);
const numbers = (count) => `[${[...Array(count).keys()].join(", ")}]`;

// A curve that falls, with noise: the same for each tool.
const CURVE = `
import math, random
def curve(seed, epochs):
    noise = random.Random(seed)
    for epoch in range(1, epochs + 1):
        falls = math.exp(-epoch / 200) + 0.02 * noise.random() + 0.0001 * seed
        yield epoch, {"loss": falls, "accuracy": 1 - falls / 2, "kl": falls ** 2, "norm": 1 + epoch / 1000, "rate": 0.1 * 0.99 ** epoch}
`;

const TRAIN = `${CURVE}
import json, os, time
from pathlib import Path
start, end = int(os.environ["VADPIPE_FROM"]), int(os.environ["VADPIPE_TO"])
values = json.loads(Path(os.environ["VADPIPE_VALUES"]).read_text())
seed, pause = int(values["start"]["number"]), float(values["start"]["pause"])
if start == end:
    Path(os.environ["VADPIPE_METRICS"]).write_text(json.dumps({"last": float(seed)}))
else:
    with open(os.environ["VADPIPE_LOG"], "a") as log:
        for epoch, figures in curve(seed, end):
            if epoch > start:
                print(json.dumps({"epoch": epoch, **figures}), file=log, flush=pause > 0)
                time.sleep(pause)
    state = Path(os.environ["VADPIPE_STATE_OUT"])
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    state.joinpath("w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
`;

const training = (name, axis, length, pause) => `[pipeline]
name = "${name}"
[stages.net]
kind = "train-command"
argv = ["python3", "train.py"]
matrix = { n = ${axis} }
segment_epochs = ${length}
epochs = ${length}
[stages.net.start]
number = "\${matrix.n}"
pause = ${pause}
`;

write("train.py", TRAIN);
write("curves.toml", training("curves", numbers(trainings), epochs, 0));
write("live.toml", training("live", "[7]", 40, 0.25));
write("rows.toml", `[pipeline]
name = "rows"
[stages.row]
kind = "command"
matrix = { n = ${numbers(points)} }
argv = ["sh", "-c", "echo '{\\"loss\\": 0.'$0'}' > $1; echo > $2", "\${matrix.n}", "{metrics}", "{outputs.x}"]
outputs = { x = "x" }
`);

write("speed.toml", `[pipeline]
name = "speed"
[stages.data]
kind = "load-data"
source = "synthetic"
train = 480
[stages.ad]
kind = "train-ad"
inputs = { data = "data" }
epochs = 30
latent_dim = 64
channels = [512, 256, 128, 64]
`);

const say = (line) => console.log(line);
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;
const run = (file) => execFileSync(vadpipe, ["run", file, "--quiet"], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });

/** The resident memory of a process now, and its peak, in megabytes. */
function memory(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const field = (name) => Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)[1]) / 1000;
  return [field("VmRSS"), field("VmHWM")];
}

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });

async function serve() {
  const server = spawn(vadpipe, ["ui", "--json"], { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
  const begun = performance.now();
  const url = await new Promise((resolve) => {
    let text = "";
    server.stdout.on("data", (data) => { text += data; if (text.includes("}")) resolve(JSON.parse(text).url); });
  });
  return { server, url, started: performance.now() - begun };
}

/** Opens a page. Returns it with the milliseconds to a selector, and to the first paint. */
async function open(url, selector) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 860 } });
  page.setDefaultTimeout(120_000);
  const begun = performance.now();
  await page.goto(url);
  await page.waitForSelector(selector);
  const shown = performance.now() - begun;
  const painted = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN);
  return { page, shown, painted };
}

/** Milliseconds from a change of the filter to a table with this number of points. */
const filtered = (page, text, expected) => page.evaluate(([text, expected]) => new Promise((resolve) => {
  const [where, count] = ["where", "count"].map((id) => document.getElementById(id));
  const begun = performance.now();
  new MutationObserver((_, observer) => {
    if (count.textContent.startsWith(expected)) {
      observer.disconnect();
      requestAnimationFrame(() => resolve(performance.now() - begun));
    }
  }).observe(count, { childList: true, characterData: true, subtree: true });
  where.value = text;
  where.dispatchEvent(new Event("input"));
}), [text, expected]);

/** Frames a second while the pointer moves over an element. */
async function frames(page, selector) {
  const box = await page.locator(selector).first().boundingBox();
  const counted = page.evaluate(() => new Promise((resolve) => {
    let frames = 0;
    const begun = performance.now();
    const next = () => { frames += 1; const taken = performance.now() - begun; taken < 2000 ? requestAnimationFrame(next) : resolve((frames * 1000) / taken); };
    requestAnimationFrame(next);
  }));
  const until = performance.now() + 2000;
  for (let step = 0; performance.now() < until; step += 1) {
    await page.mouse.move(box.x + 20 + ((step * 7) % (box.width - 40)), box.y + box.height / 2);
  }
  return counted;
}

async function ours() {
  run("rows.toml");
  run("curves.toml");
  const { server, url, started } = await serve();
  try {
    const first = await open(url, ".line");
    say(`ours         started in ${seconds(started)}, first row after ${seconds(first.shown)}, first paint ${seconds(first.painted)}`);
    const { page } = first;
    await page.waitForFunction((count) => document.getElementById("count").textContent.replace(/\D/g, "").includes(count), String(points + trainings));
    const times = [];
    for (let round = 0; round < 5; round += 1) {
      times.push(await filtered(page, `n<${100 + round} && stage=row`, `${100 + round} of`));
    }
    say(`filter       ${times.map((time) => time.toFixed(0)).join(", ")} ms for ${points + trainings} rows`);
    await filtered(page, "stage=net", trainings.toLocaleString("en"));
    const begun = performance.now();
    await page.evaluate(() => { location.hash = "curves"; });
    await page.waitForSelector(".chart canvas");
    say(`curves       ${trainings} of ${epochs} epochs drawn after ${seconds(performance.now() - begun)}`);
    say(`hover        ${(await frames(page, ".chart canvas")).toFixed(0)} frames a second`);
    await page.close();
    await live(url);
    await trainingSpeed(url, server);
    const [now, peak] = memory(server.pid);
    say(`memory       ${now.toFixed(0)} MB, at most ${peak.toFixed(0)} MB`);
  } finally {
    server.kill();
  }
}

/** Milliseconds from a logged epoch to its place in the table, and to its place in the curve. */
async function live(url) {
  await liveIn(url, "table", "points", "#main", 0.25, (text) => Number(/(\d+) \/ 40/.exec(text)?.[1]) || null);
  // The last value of the curve stands beside it.
  await liveIn(url, "curve", "curves", ".readout data", 0.26, (text, epochs) =>
    epochs.find(([, loss]) => Math.abs(loss - Number(text)) < 1e-3 * loss)?.[0] ?? null);
}

async function liveIn(url, name, view, selector, pause, epochOf) {
  const { page } = await open(url, ".line");
  await page.fill("#where", "stage=net && pipeline=live").catch(() => {});
  await page.evaluate((view) => { location.hash = view; }, view);
  const child = spawn(vadpipe, ["run", "live.toml", "--json", "-S", `stages.net.start.pause=${pause}`], { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
  const logged = [];
  child.stdout.on("data", (data) => {
    for (const line of String(data).split("\n").filter(Boolean)) {
      const event = JSON.parse(line);
      if (event.event === "epoch") logged.push([event.epoch, event.figures.loss, Date.now()]);
    }
  });
  const texts = page.evaluate((selector) => new Promise((resolve) => {
    const texts = [], begun = performance.now();
    const look = () => {
      const text = document.querySelector(selector)?.innerText ?? "";
      if (text !== texts.at(-1)?.[0]) texts.push([text, Date.now()]);
      performance.now() - begun > 9000 ? resolve(texts) : requestAnimationFrame(look);
    };
    look();
  }), selector);
  const seen = (await texts).map(([text, at]) => [epochOf(text, logged), at]).filter(([epoch]) => epoch !== null);
  await new Promise((resolve) => child.on("exit", resolve));
  const last = Math.max(...seen.map(([epoch]) => epoch));
  const delays = logged.filter(([epoch]) => epoch <= last)
    .map(([epoch, , at]) => seen.find(([shown]) => shown >= epoch)[1] - at).sort((a, b) => a - b);
  if (!(last >= 20)) throw new Error(`only ${last} epochs appeared in the ${name}`);
  say(`live         ${name}: ${delays[Math.floor(delays.length / 2)]} ms after the event, ${delays.at(-1)} ms at most`);
  await page.close();
}

/** The seconds that these processes have computed. */
function computed(pids) {
  const ticks = pids.map((pid) => {
    try {
      const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
      // With those of children that have ended.
      return [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at]), 0);
    } catch { return 0; }
  });
  return ticks.reduce((sum, one) => sum + one, 0) / 100;
}

const browserProcesses = () => execFileSync("pgrep", ["chromium"]).toString().split("\n").map(Number).filter(Boolean);

/** The ratios of pairs of trainings, with the page of their curves open and without, and what the page computed. */
async function trainingSpeed(url, server) {
  const cores = cpus().length;
  const trained = async (seed) => {
    const child = spawn(vadpipe, ["run", "speed.toml", "--quiet", "-S", `pipeline.seed=${seed}`], { cwd: folder, stdio: ["ignore", "ignore", "inherit"] });
    await new Promise((resolve) => child.on("exit", resolve));
    const record = JSON.parse(execFileSync(vadpipe, ["show", "speed.toml", "ad", "--json", "-S", `pipeline.seed=${seed}`], { cwd: folder }));
    return record.ad.provenance.seconds;
  };
  await trained(0);
  const ratios = [];
  let time = 0, own = 0, browsers = 0;
  for (let pair = 1; pair <= 5; pair += 1) {
    const { page } = await open(url, ".line");
    await page.fill("#where", "pipeline=speed");
    await page.evaluate(() => { location.hash = "curves"; });
    await page.waitForSelector(".chart canvas");
    await page.waitForTimeout(2000);
    const begun = [performance.now(), computed([server.pid]), computed(browserProcesses())];
    const watched = await trained(2 * pair);
    time += (performance.now() - begun[0]) / 1000;
    own += computed([server.pid]) - begun[1];
    browsers += computed(browserProcesses()) - begun[2];
    await page.close();
    const alone = await trained(2 * pair + 1);
    ratios.push(watched / alone);
  }
  ratios.sort((a, b) => a - b);
  const share = (seconds) => `${((100 * seconds) / time / cores).toFixed(1)} %`;
  say(`training     ${ratios[2].toFixed(3)} of the time without the page (${ratios[0].toFixed(3)} to ${ratios[4].toFixed(3)})`);
  say(`             meanwhile, of ${cores} cores, the server took ${share(own)} and the browser ${share(browsers)}`);
}

const TENSORBOARD = `${CURVE}
import sys
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
for seed in range(int(sys.argv[2])):
    writer = EventFileWriter(f"{sys.argv[1]}/net@n={seed}")
    for epoch, figures in curve(seed, int(sys.argv[3])):
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        writer.add_event(Event(step=epoch, wall_time=epoch, summary=Summary(value=values)))
    writer.close()
`;

const AIM = `${CURVE}
import sys
from aim import Run
for seed in range(int(sys.argv[2])):
    run = Run(repo=sys.argv[1], system_tracking_interval=None, capture_terminal_logs=False)
    run["n"] = seed
    for epoch, figures in curve(seed, int(sys.argv[3])):
        for name, value in figures.items():
            run.track(value, name=name, step=epoch)
    run.close()
`;

const TRACKIO = `${CURVE}
import os, sys
os.environ["TRACKIO_DIR"] = sys.argv[1]
import trackio
for seed in range(int(sys.argv[2])):
    trackio.init(project="net", name=f"net@n={seed}", config={"n": seed})
    for epoch, figures in curve(seed, int(sys.argv[3])):
        trackio.log(figures, step=epoch)
    trackio.finish()
`;

const SHOW_TRACKIO = `
import os, sys
os.environ["TRACKIO_DIR"] = sys.argv[1]
import trackio
trackio.show(project="net", open_browser=False, host="127.0.0.1", server_port=17903, block_thread=True)
`;

/** Whether the peers' Python has a package. */
const has = (name) => { try { execFileSync(peers, ["-c", `import ${name}`], { stdio: "ignore" }); return true; } catch { return false; } };

/** The memory of a process and all its children, in megabytes. */
function memoryOfAll(pid) {
  const children = execFileSync("ps", ["-o", "pid=", "--ppid", String(pid)]).toString().split("\n").map(Number).filter(Boolean);
  return [pid, ...children].reduce((sum, child) => { try { return sum + memory(child)[0]; } catch { return sum; } }, 0);
}

async function peer(name, script, command, port, selector) {
  const data = mkdtempSync(join(folder, `${name}-`));
  // Not the name of the package that it imports.
  const program = `write-${name}.py`;
  write(program, script);
  const begun = performance.now();
  execFileSync(peers, [join(folder, program), data, String(trainings), String(epochs)], { cwd: data, stdio: ["ignore", "ignore", "inherit"] });
  const written = performance.now() - begun;
  const server = spawn(peers, command(data), { cwd: data, stdio: "ignore", detached: true });
  const started = performance.now();
  try {
    const url = `http://127.0.0.1:${port}/`;
    for (;;) {
      const answers = await fetch(url).then((answer) => answer.ok, () => false);
      if (answers) break;
      if (performance.now() - started > 300_000) throw new Error(`${name} never answered`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const ready = performance.now() - started;
    const { page, shown } = await open(url, selector);
    say(`${name.padEnd(12)} written in ${seconds(written)}, answers after ${seconds(ready)}, first curve or row ${seconds(shown)} later, ${memoryOfAll(server.pid).toFixed(0)} MB`);
    await page.close();
  } catch (error) {
    say(`${name.padEnd(12)} ${error.message.split("\n")[0]}`);
  } finally {
    process.kill(-server.pid);
  }
}

try {
  say(`${trainings} trainings of ${epochs} epochs and ${metrics.length} metrics, and ${points} other points`);
  if (!args.includes("--only-peers")) await ours();
  if (peers) {
    if (has("tensorboard")) await peer("tensorboard", TENSORBOARD, (data) => ["-m", "tensorboard.main", "--logdir", data, "--port", "17901"], 17901, "tb-card canvas, scalar-card, card-view canvas");
    if (has("trackio")) await peer("trackio", TRACKIO, (data) => ["-c", SHOW_TRACKIO, data], 17903, "canvas.marks");
    if (has("aim")) await peer("aim", AIM, (data) => ["-m", "aim", "up", "--repo", data, "--port", "17902"], 17902, "canvas, table, .Table, .ExploreTable");
  }
} finally {
  await browser.close();
  rmSync(folder, { recursive: true, force: true });
}
