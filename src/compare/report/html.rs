//! The page around the sections: one file, no network and no script.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Text with the special characters of HTML escaped.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A plot with its caption.
pub(super) fn figure(svg: &str, caption: &str) -> String {
    format!("<figure>{svg}<figcaption>{}</figcaption></figure>\n", escape(caption))
}

/// A picture with its caption, embedded in the page.
pub(super) fn picture(png: &[u8], caption: &str) -> String {
    let caption = escape(caption);
    format!(
        "<figure class=\"grid\"><img alt=\"{caption}\" src=\"data:image/png;base64,{}\"/><figcaption>{caption}</figcaption></figure>\n",
        STANDARD.encode(png)
    )
}

/// A paragraph.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A command to type.
pub(super) fn command(text: &str) -> String {
    format!("<code>{}</code>", escape(text))
}

/// A list of remarks, or nothing.
pub(super) fn remarks(items: &[String]) -> String {
    if items.is_empty() {
        return String::new();
    }
    let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
    format!("<ul>\n{items}</ul>\n")
}

/// The page.
pub(super) fn page(title: &str, sections: &[String]) -> String {
    let title = escape(title);
    let body = sections.concat();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

const STYLE: &str = "\
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #222; font: 17px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 0 16px 48px; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.3rem; margin-top: 2.2em; border-bottom: 1px solid #ddd; }
h3 { font-size: 1.05rem; margin-top: 1.6em; }
p, ul { max-width: 46em; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 8px 24px; align-items: start; }
figure { margin: 12px 0; }
figure svg { width: 100%; height: auto; display: block; }
figure.grid img { width: 100%; max-width: 540px; height: auto; image-rendering: pixelated; display: block; }
figcaption { color: #555; font-size: 0.88rem; }
code { font-size: 0.9em; background: #f3f3f3; padding: 1px 4px; }
.table { overflow-x: auto; margin-top: 4px; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border-bottom: 1px solid #e4e4e4; text-align: right; white-space: nowrap; }
thead th { white-space: normal; vertical-align: bottom; color: #333; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
tbody th { font-weight: 600; }
.equation { overflow-x: auto; padding: 4px 0; }
dt { margin-top: 0.6em; }
dd { margin: 0 0 0 1.2em; }
";
