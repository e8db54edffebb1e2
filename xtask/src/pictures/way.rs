//! The way of a connection's bytes, beside that through sidecars.

use std::fmt::Write as _;

use Lane::{Kernel, User, Wire};

/// Where a station lies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    User,
    Kernel,
    Wire,
}

/// A station of the way: its name, and whether it is there for the routing alone.
type Station = (&'static str, Lane, bool);

const SIDECAR: [Station; 9] = [
    ("client", User, false),
    ("NAT", Kernel, true),
    ("sidecar", User, true),
    ("TCP", Kernel, true),
    ("network", Wire, false),
    ("NAT", Kernel, true),
    ("sidecar", User, true),
    ("TCP", Kernel, true),
    ("server", User, false),
];
const OURS: [Station; 5] = [
    ("client", User, false),
    ("TCP", Kernel, false),
    ("network", Wire, false),
    ("TCP", Kernel, false),
    ("server", User, false),
];

const WIDTH: f64 = 960.0;
const BOX: [f64; 2] = [84.0, 30.0];

/// The picture.
pub fn draw() -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} 420\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    row(
        &mut svg,
        20.0,
        "With sidecars",
        "every byte passes two proxies, and crosses into the kernel and out of it four times more",
        &SIDECAR,
    );
    row(
        &mut svg,
        220.0,
        "With redirector",
        "a program in connect() chooses the endpoint, once; from then on nobody is in the way",
        &OURS,
    );
    // The kernel of the client.
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"384\" text-anchor=\"middle\" fill=\"#1f6feb\">BPF in connect(): \
         where to?</text>",
        WIDTH / OURS.len() as f64 * 1.5
    );
    svg += "</svg>\n";
    svg
}

/// One way: user space above, the kernel below, the network between two machines.
fn row(svg: &mut String, top: f64, title: &str, about: &str, stations: &[Station]) {
    let lane = |lane: Lane| match lane {
        User => top + 62.0,
        Kernel | Wire => top + 128.0,
    };
    let step = WIDTH / stations.len() as f64;
    let middle = |index: usize| step * (index as f64 + 0.5);
    let border = top + 95.0;
    let _ = writeln!(
        svg,
        "<text x=\"20\" y=\"{}\" font-size=\"16\" font-weight=\"bold\">{title}</text>\
         <text x=\"170\" y=\"{}\" fill=\"#57606a\">{about}</text>\n\
         <line x1=\"20\" x2=\"{}\" y1=\"{border}\" y2=\"{border}\" stroke=\"#8c959f\" \
         stroke-dasharray=\"4 4\"/>\n\
         <text x=\"20\" y=\"{}\" font-size=\"10\" fill=\"#57606a\">user space</text>\
         <text x=\"20\" y=\"{}\" font-size=\"10\" fill=\"#57606a\">kernel</text>",
        top + 18.0,
        top + 18.0,
        WIDTH - 20.0,
        border - 4.0,
        border + 12.0
    );
    let points: Vec<_> = (0..stations.len())
        .map(|index| format!("{:.1},{:.1}", middle(index), lane(stations[index].1)))
        .collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1f6feb\" stroke-width=\"3\"/>",
        points.join(" ")
    );
    for (index, (name, place, extra)) in stations.iter().enumerate() {
        let (x, y) = (middle(index), lane(*place));
        let [width, height] = BOX;
        let (fill, stroke) = match (extra, place) {
            (true, _) => ("#ffebe9", "#cf222e"),
            (false, Wire) => ("#f6f8fa", "#8c959f"),
            (false, _) => ("#ddf4ff", "#1f6feb"),
        };
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{width}\" height=\"{height}\" rx=\"5\" \
             fill=\"{fill}\" stroke=\"{stroke}\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            x - width / 2.0,
            y - height / 2.0,
            y + 4.5
        );
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_picture_of_the_way_is_the_one_that_is_drawn() {
        assert_eq!(super::draw(), include_str!("../../../docs/way.svg"), "cargo xtask pictures");
    }
}
