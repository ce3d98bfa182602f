//! Reports of what programs wrote: pictures and tables.

use crate::support::Project;

const DRAW: &str = r#"
[pipeline]
name = "draw"

[matrix]
rate = [0.1, 0.2]

[stages.draw]
kind = "command"
argv = ["sh", "draw.sh", "${matrix.rate}"]
outputs = { plot = "plot.svg", curve = "curve.csv", figures = "figures/", broken = "broken.png" }

[stages.report]
kind = "report"
inputs = { draw = ["draw@*"] }
"#;

const SCRIPT: &str = r#"
echo '<svg xmlns="http://www.w3.org/2000/svg" width="90" height="60"><path d="M9 9L80 50" stroke="red"/></svg>' > plot.svg
cp plot.svg figures/one.svg
: > broken.png
echo step,loss > curve.csv
for step in 1 2 3 4; do echo $step,$1$step >> curve.csv; done
"#;

fn draw() -> Project {
    let project = Project::new(DRAW);
    project.write("draw.sh", SCRIPT);
    project
}

#[test]
fn report_shows_pictures_and_curves_of_programs() {
    let project = draw();
    project.run(&[]);
    let page = project.read("reports/draw.report.html");
    // Four among the outputs, and one on the first screen.
    assert_eq!(page.matches("src=\"data:image/svg+xml;base64,").count(), 5);
    assert!(page.contains("<figcaption>draw@<wbr>rate=<wbr>0.1</figcaption>"));
    assert!(page.contains(">curve.csv</b>") && page.contains(">step</text>"));
    assert_eq!(page.matches("<title>draw@rate=0.2</title>").count(), 1);
    assert!(page.contains("<b>plot.svg</b>"));
    assert!(page.contains("<td>the file is empty</td>"), "a broken picture does not fail the report");
    let again = project.run(&[]);
    assert_eq!(again.executed(), [""; 0]);
    assert_eq!(project.vadpipe(["verify", "p.toml", "report"]).code, 0);
}

#[test]
fn line_connects_the_epochs_in_which_a_program_logged_a_metric() {
    let project = Project::new(
        "[pipeline]\nname = \"p\"\n[stages.net]\nkind = \"train-command\"\nargv = [\"sh\", \"net.sh\"]\n\
         segment_epochs = 6\nepochs = 6\n[stages.report]\nkind = \"report\"\ninputs = { net = \"net\" }\n",
    );
    project.write(
        "net.sh",
        "for epoch in 1 2 3 4 5 6; do\n[ $((epoch % 3)) = 0 ] && more=\", \\\"accuracy\\\": 0.$epoch\" || more=\n\
         echo \"{\\\"epoch\\\": $epoch$more}\" >> $VADPIPE_LOG\ndone\necho x > $VADPIPE_STATE_OUT/state\n",
    );
    project.run(&[]);
    let page = project.read("reports/p.report.html");
    let (_, chart) = page.split_once("<b>accuracy</b>").expect("a chart");
    let (chart, _) = chart.split_once("</figure>").expect("its end");
    let (_, line) = chart.split_once("class=\"l n0 d0").expect("a line");
    let path = line.split(" d=\"").nth(1).and_then(|d| d.split('"').next()).expect("its path");
    assert_eq!(path.matches('L').count(), 1, "from epoch 3 to epoch 6: {path}");
}
