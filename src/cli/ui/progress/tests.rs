use anstream::adapter::strip_str;

use super::*;
use crate::cli::ui::style::printable;
use crate::key::Digest;
use crate::status::RunStatus;

/// A board, and how many seconds after the start of the run it is.
struct Shown {
    board: Board,
    began: Instant,
    now: Instant,
}

impl Shown {
    fn new(stages: usize) -> Self {
        let now = Instant::now();
        let mut shown = Self { board: Board::default(), began: now, now };
        shown.event(&Event::RunStarted {
            version: 1,
            run: "r".to_owned(),
            pipeline: "p".to_owned(),
            stages,
            device: String::new(),
            numerics: String::new(),
            threads: 2,
        });
        shown
    }

    fn after(&mut self, seconds: u64) -> &mut Self {
        self.now = self.began + Duration::from_secs(seconds);
        self
    }

    fn event(&mut self, event: &Event) -> &mut Self {
        self.board.event(event, self.now);
        self
    }

    fn start(&mut self, stage: &str) -> &mut Self {
        let (stage, kind) = (stage.to_owned(), String::new());
        let key = Digest::of(b"a");
        self.event(&Event::StageStarted { stage, kind, key, reason: None, gpus: vec![], worker: None })
    }

    fn step(&mut self, stage: &str, done: u64, figures: &[(&str, f64)]) -> &mut Self {
        let figures = figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let (stage, unit) = (stage.to_owned(), "epochs".to_owned());
        self.event(&Event::Progress { stage, done, total: 40, unit, figures, rate: Some(1234.0), resumed_at: None })
    }

    fn epoch(&mut self, stage: &str, epoch: u64, figures: &[(&str, f64)]) -> &mut Self {
        let figures = figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        self.event(&Event::Epoch { stage: stage.to_owned(), epoch, epochs: 40, figures, resumed_at: None })
    }

    fn failed(&mut self, stage: &str) -> &mut Self {
        let (stage, log) = (stage.to_owned(), String::new());
        self.event(&Event::StageFailed { stage, error: String::new(), hint: None, log })
    }

    fn cached(&mut self, stages: usize) -> &mut Self {
        for n in 0..stages {
            self.event(&Event::StageCached { stage: format!("cached-{n}"), key: Digest::of(b"a") });
        }
        self
    }

    fn lines(&self, columns: usize, rows: usize) -> String {
        let lines = self.board.lines((columns, rows), self.now);
        let lines = lines.iter().map(|line| strip_str(&printable(line)).to_string());
        lines.inspect(|line| assert!(line.width() < columns, "{line}")).collect::<Vec<_>>().join("\n")
    }
}

const LONG: &str = "train-the-network@learning_rate=0.003,weight_decay=0.0001";

fn mixed() -> Shown {
    let mut shown = Shown::new(24);
    shown.cached(6).start("ad").start(LONG).start("vad@distribution=exponential");
    shown.step("ad", 0, &[("loss", 1.0), ("step", 1.0), ("steps", 30.0)]);
    shown.after(60).epoch("ad", 12, &[("loss", 0.12345), ("rmse", 0.25)]).failed("broken");
    shown.step("vad@distribution=exponential", 1, &[]);
    shown
        .board
        .show_line(LONG, "epoch 3 of 100: loss 0.25, and more words than fit on any line of a terminal".to_owned());
    shown
}

#[test]
fn lines_at_80_columns() {
    insta::assert_snapshot!(mixed().lines(80, 24), @r"
    ⠋ ad                              ━━━╸───────────  12/40   2m20s  loss 0.1235
    ⠋ train-the-network@0.003,0.0001   1m00s  epoch 3 of 100: loss 0.25, and more …
    ⠋ vad@distribution=exponential    ───────────────   1/40          1234/s
      ━━━━╸──────────────  7/24 stages  1 failed  1m00s
    ");
}

#[test]
fn lines_at_100_columns() {
    insta::assert_snapshot!(mixed().lines(100, 24), @r"
    ⠋ ad                              ━━━━━━╸──────────────────  12/40   2m20s  loss 0.1235 rmse 0.2500
    ⠋ train-the-network@0.003,0.0001   1m00s  epoch 3 of 100: loss 0.25, and more words than fit on an…
    ⠋ vad@distribution=exponential    ─────────────────────────   1/40          1234/s
      ━━━━━━╸─────────────────  7/24 stages  1 failed  1m00s
    ");
}

#[test]
fn narrow_and_low_terminal_shows_what_fits() {
    insta::assert_snapshot!(mixed().lines(40, 5), @r"
    ⠋ ad                ━━╸───────  12/40
    ⠋ train-the-netwo…   1m00s  epoch 3 of…
      … and 1 more
      ━╸────────  7/24 stages  1 failed  1…
    ");
}

#[test]
fn line_keeps_its_layout_between_steps_and_the_ends_of_epochs() {
    let mut shown = Shown::new(1);
    shown.start("ad").epoch("ad", 1, &[("loss", 0.5), ("rmse", 0.25)]).after(10);
    let texts = [
        shown.step("ad", 1, &[("loss", 0.4), ("step", 15.0), ("steps", 30.0)]).lines(80, 24),
        shown.epoch("ad", 2, &[("loss", 0.3), ("rmse", 0.2)]).lines(80, 24),
        shown.step("ad", 2, &[("loss", 0.25), ("step", 15.0), ("steps", 30.0)]).lines(80, 24),
    ];
    insta::assert_snapshot!(texts.map(|text| text.lines().next().unwrap_or_default().to_owned()).join("\n"), @r"
    ⠋ ad  ╸────────────────────────────  1/40  12m50s  loss 0.4000 rmse 0.2500
    ⠋ ad  ╸────────────────────────────  2/40   6m20s  loss 0.3000 rmse 0.2000
    ⠋ ad  ╸────────────────────────────  2/40   4m10s  loss 0.2500 rmse 0.2000
    ");
}

#[test]
fn whole_run_counts_stages_that_are_made_again_once() {
    let mut shown = Shown::new(3);
    shown.cached(2);
    let made_again = |shown: &mut Shown| shown.start("cached-0").failed("cached-0").lines(80, 24);
    assert!(shown.lines(80, 24).contains(" 2/3 stages  0s"));
    assert!(shown.start("cached-0").lines(80, 24).contains(" 1/3 stages  0s"));
    assert!(made_again(&mut shown).contains(" 2/3 stages  1 failed"));
    let event = Event::RunFinished {
        status: RunStatus::Failed,
        run: String::new(),
        executed: vec![],
        cached: vec![],
        failed: vec![],
        skipped: vec![],
        pruned: vec![],
        epochs_trained: 0,
        epochs_cached: 0,
        seconds: 1.0,
    };
    assert_eq!(shown.event(&event).lines(80, 24), "", "nothing is left after the end");
}

#[test]
fn long_names_of_points_keep_their_values() {
    assert_eq!(short_name(LONG, 60), LONG);
    assert_eq!(short_name(LONG, 32), "train-the-network@0.003,0.0001");
    assert_eq!(short_name(LONG, 24), "train-the-…@0.003,0.0001");
    assert_eq!(short_name(LONG, 12), "train-the-n…");
    assert_eq!(short_name("a-very-long-name-of-a-stage", 12), "a-very-long…");
}

#[test]
fn last_line_of_a_log_is_the_newest_state_of_a_progress_bar() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    assert_eq!(last_line(&path), None);
    let line = |text: &str| {
        std::fs::write(&path, text).unwrap();
        last_line(&path).unwrap_or_default()
    };
    assert_eq!(line("one\ntwo\n\n"), "two");
    assert_eq!(line("\r 10%|█  |\r 20%|██ |\u{1b}[0m\r"), "20%|██ |");
    assert_eq!(line(&format!("{}\nlast\u{202e}", "x".repeat(10_000))), "last\\u{202e}");
    assert_eq!(line("\n"), "");
}

#[test]
fn times_have_at_most_six_characters() {
    let times = [0, 59, 60, 3599, 3600, 359_999, 360_000, 9_000_000].map(|s| clock(Duration::from_secs(s)));
    assert_eq!(times, ["0s", "59s", "1m00s", "59m59s", "1h00m", "99h59m", "4d", "104d"]);
}
