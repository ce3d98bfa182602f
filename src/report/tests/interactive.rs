//! What the scripts add to charts, in a browser.

use super::first_screen::page_with_data;
use super::*;

/// Helpers for the scripts below. `move` points at a place of a figure, as shares of its width and height.
const HELP: &str = "
    const move = (svg, x, y) => {
        const box = svg.getBoundingClientRect();
        const at = { clientX: box.left + box.width * x, clientY: box.top + box.height * y, bubbles: true };
        svg.dispatchEvent(new PointerEvent('pointermove', at));
    };
    const press = (title, text) => [...document.querySelectorAll(title + ' button')]
        .find((b) => b.textContent.trim() === text || b.querySelector('span')?.textContent === text).click();
    const note = (name, value) => document.body.setAttribute('data-' + name, value);
";

/// The values that a script notes after the page was loaded. `None` without a browser.
fn notes(page: &str, script: &str, names: &[&str]) -> Option<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    let script = format!("<script>addEventListener('load', () => {{ {HELP} {script} }});</script></body>");
    std::fs::write(&file, page.replace("</body>", &script)).unwrap();
    let Some(page) = browser::load(&file).unwrap() else {
        eprintln!("no chromium in PATH: nothing was pointed at");
        return None;
    };
    assert_eq!(page.complaints, Vec::<String>::new());
    let body = page.dom.split("<body").nth(1).unwrap().split('>').next().unwrap().to_owned();
    let value = |name: &&str| {
        let value = body.split(&format!("data-{name}=\"")).nth(1).unwrap_or_else(|| panic!("no {name}: {body}"));
        value.split('"').next().unwrap().to_owned()
    };
    Some(names.iter().map(value).collect())
}

#[test]
fn pointer_shows_the_values_of_all_lines_at_an_epoch() {
    let script = "
        move(document.querySelector('#training svg.lines'), 0.97, 0.5);
        note('tip', document.querySelector('.tip').innerText.replace(/\\s+/g, ' '));";
    let Some(found) = notes(&html(), script, &["tip"]) else { return };
    let last = falling(100, 0.87, 0.0609).to_vec::<f64>().unwrap()[99];
    assert_eq!(found, [format!("epoch 100 ad {}", html::number(last))]);
}

#[test]
fn key_hides_a_line_in_all_charts_of_its_group() {
    let script = "
        press('#training .multiples:has([data-lines]:nth-of-type(4)) .legend', 'gaussian');
        note('off', document.querySelectorAll('#training .lines .off').length);
        note('pressed', document.querySelectorAll('#training .legend button[aria-pressed=false]').length);";
    let Some(found) = notes(&html(), script, &["off", "pressed"]) else { return };
    assert_eq!(found, ["4", "4"], "one line in each of the four charts of the variational auto-decoders");
}

#[test]
fn scale_and_smoothing_redraw_lines_inside_the_chart() {
    let script = "
        const heights = () => [...document.querySelectorAll('#training .multiples')[1].querySelectorAll('.l')]
            .flatMap((line) => [...line.getAttribute('d').matchAll(/ (-?[\\d.]+)/g)].map((m) => Number(m[1])));
        const before = heights();
        document.querySelectorAll('#training .controls')[1].querySelectorAll('button')[2].click();
        const linear = heights();
        note('moved', linear.some((y, at) => Math.abs(y - before[at]) > 5));
        const range = document.querySelectorAll('#training .controls input')[1];
        range.value = 0.9;
        range.dispatchEvent(new Event('input'));
        const smooth = heights();
        note('smooth', smooth.some((y, at) => Math.abs(y - linear[at]) > 5));
        note('inside', [...linear, ...smooth].every((y) => y >= 9.9 && y <= 238.1));
        document.querySelectorAll('#training .controls')[1].querySelectorAll('button')[0].click();
        range.value = 0;
        range.dispatchEvent(new Event('input'));
        note('back', heights().every((y, at) => Math.abs(y - before[at]) < 0.02));";
    let Some(found) = notes(&html(), script, &["moved", "smooth", "inside", "back"]) else { return };
    assert_eq!(found, ["true"; 4]);
}

#[test]
fn pointer_shows_the_class_and_the_image_of_a_point() {
    let script = "
        const plot = document.querySelector('#embeddings .scatter');
        const [, x, y] = plot.querySelector('[data-k=\"6\"]').getAttribute('d').match(/M(\\d+) (\\d+)/);
        move(plot, x / 1000, y / 1000);
        const tip = document.querySelector('.tip');
        note('tip', tip.innerText.trim());
        note('image', tip.querySelector('.image').style.backgroundPosition);
        note('png', tip.querySelector('.image').style.backgroundImage.startsWith('url(\"data:image/png'));";
    let Some(found) = notes(&page_with_data(), script, &["tip", "image", "png"]) else { return };
    // The first image of class 6 is number 12 of the split. 28 pixels and a gap, three times their size.
    assert_eq!(found, ["Shirt image 12", "-1044px 0px", "true"]);
}

#[test]
fn figure_is_saved_as_an_svg_with_its_colours_and_its_key() {
    let script = "
        HTMLAnchorElement.prototype.click = function () { note('name', this.download); note('svg', this.href); };
        document.querySelectorAll('#training .multiples')[1].querySelector('.export').click();";
    let Some(found) = notes(&html(), script, &["name", "svg"]) else { return };
    assert_eq!(found[0], "Loss.svg");
    let svg = &found[1];
    assert!(svg.starts_with("data:image/svg+xml"), "{svg}");
    assert!(svg.contains("stroke%3Argb(63%2C%20144%2C%20218)"), "the first colour of the palette");
    assert_eq!(
        ["exponential", "gaussian", "uniform"].map(|name| svg.matches(&format!("%3E{name}%3C")).count()),
        [1; 3]
    );
}
