"""Style sheet and script of the HTML report."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #fff; --text: #1b1f24; --muted: #5a6470; --line: #dfe3e8;
  --accent: #0b6a8f; --before: #a3610f; --after: #0b6a8f;
  --warn: #fff6e0; --warn-line: #e5b94d; --shadow: 0 1px 2px #1b1f2412;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101317; --card: #181c22; --text: #e7eaee; --muted: #9aa5b1; --line: #2b323b;
    --accent: #5cc3ea; --before: #eeaa56; --after: #5cc3ea;
    --warn: #2b2412; --warn-line: #8a6d24; --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
header, main, footer { max-width: 1160px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -.015em; margin: .1em 0 .25em; font-weight: 600; }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 2.6em 0 .5em; font-weight: 600; }
h3 { font-size: 1rem; margin: 1.9em 0 .5em; font-weight: 600; }
h1, .lead { overflow-wrap: anywhere; }
p { margin: .5em 0; max-width: 75ch; }
.brand { color: var(--accent); font-weight: 600; font-size: .85rem; letter-spacing: .02em; margin: 0; }
.lead { color: var(--muted); margin-top: 0; max-width: none; }
.note { color: var(--muted); font-size: .9rem; }
a { color: var(--accent); text-underline-offset: 2px; }
a.ref {
  text-decoration: none; font-size: 11px; vertical-align: super; line-height: 0; padding: 0 .15em; font-weight: 500;
  letter-spacing: 0;
}
code { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }

.tile, .scroll, figure, dl.facts {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; box-shadow: var(--shadow);
}
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; margin: 24px 0 0; }
.tile { padding: 14px 18px 13px; }
.tile dt { color: var(--muted); font-size: .85rem; }
.tile dd {
  margin: .1em 0 0; font-size: 1.6rem; line-height: 1.2; font-weight: 600; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums;
}
.tile .unit { font-size: .9rem; font-weight: 400; color: var(--muted); letter-spacing: 0; }
.tile .was { color: var(--muted); font-weight: 400; font-size: 1.1rem; white-space: nowrap; }
.tile dd.sub {
  font-size: .85rem; font-weight: 400; letter-spacing: 0; color: var(--muted); margin-top: .25em;
}
.warnings {
  background: var(--warn); border: 1px solid var(--warn-line); border-radius: 10px; padding: 10px 18px;
  margin: 18px 0 0;
}
.warnings ul { margin: .2em 0; padding-left: 1.2em; }

figure { margin: 18px 0 0; padding: 14px; }
figcaption {
  margin: 12px 2px 0; display: flex; flex-wrap: wrap; gap: 10px 32px; align-items: flex-start;
  justify-content: space-between;
}
figcaption > p { margin: 0; flex: 1 1 560px; }
.planes { display: grid; gap: 10px; }
.planes + .planes { margin-top: 10px; }
.shot {
  position: relative; background: #000; border-radius: 5px; overflow: hidden; color: #fff; font-size: 12px;
  line-height: 1; align-self: start;
}
.shot img { display: block; width: 100%; height: auto; }
.shot i { position: absolute; font-style: normal; color: #ffffffc0; text-shadow: 0 0 3px #000, 0 0 3px #000; }
.shot .l { left: 7px; top: 50%; transform: translateY(-50%); }
.shot .r { right: 7px; top: 50%; transform: translateY(-50%); }
.shot .t { top: 7px; left: 50%; transform: translateX(-50%); }
.shot .b { bottom: 7px; left: 50%; transform: translateX(-50%); }
.shot .tag {
  position: absolute; left: 7px; top: 7px; padding: 4px 7px; border-radius: 4px; background: #000000a8;
  font-weight: 600;
}
.legend { flex: 0 0 auto; font-size: .82rem; color: var(--muted); max-width: 100%; }
.legend svg { display: block; max-width: 100%; height: auto; margin: -1px 0 4px; }
.legend svg text { fill: var(--muted); font-size: 12px; }
.legend .key {
  display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 6px 0 0; vertical-align: -1px;
  border: 1px solid #0003;
}
.legend span + span { margin-left: 16px; }
.legend svg + span { margin-left: 20px; }

.scroll { overflow-x: auto; margin: 12px 0 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: 6px 12px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap;
  vertical-align: middle;
}
th:first-child, td:first-child { text-align: left; white-space: normal; padding-left: 18px; }
tbody th { overflow-wrap: anywhere; font-weight: 400; }
thead th { color: var(--muted); font-weight: 600; font-size: .82rem; vertical-align: bottom; }
thead tr:first-child th[colspan] { border-bottom: 0; padding-bottom: 0; color: var(--text); }
tbody:last-child tr:last-child > * { border-bottom: 0; }
tbody + tbody tr:first-child > * { border-top: 1px solid var(--muted); }
tr.sum > * { font-weight: 600; }
td.plot, th.plot { width: 30%; min-width: 190px; padding-left: 10px; padding-right: 18px; }
.plot svg { display: block; width: 100%; height: 18px; overflow: visible; }
svg .track { stroke: var(--line); }
svg .move { stroke: var(--muted); stroke-width: 1.5; }
svg .ring { fill: var(--card); stroke: var(--before); stroke-width: 2; }
svg .dot { fill: var(--after); }
svg .axis { fill: var(--muted); font-size: 11px; }
.two { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 0 20px; }
dl.facts {
  display: grid; grid-template-columns: max-content 1fr; gap: 6px 22px; margin: 12px 0 0; padding: 14px 18px;
  font-size: .92rem;
}
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
ol.definitions { color: var(--muted); font-size: .88rem; padding-left: 1.7em; columns: 2 420px; column-gap: 40px; }
ol.definitions li { break-inside: avoid; margin: 0 0 .6em; }
ol.definitions li:target { color: var(--text); }
ol.definitions b { color: var(--text); font-weight: 600; }
footer { color: var(--muted); font-size: .85rem; margin-top: 48px; padding-bottom: 48px; }

.wipe .bar { display: flex; flex-wrap: wrap; gap: 10px 18px; align-items: center; margin-bottom: 12px; }
.wipe .bar { font-size: .92rem; }
.wipe input[type=range] { flex: 1 1 240px; accent-color: var(--accent); margin: 0; }
.wipe fieldset { border: 0; padding: 0; margin: 0; display: flex; gap: 16px; }
.wipe label { cursor: pointer; }
.wipe input[type=radio] { accent-color: var(--accent); margin: 0 6px 0 0; }
.wipe .shot img.top { position: absolute; inset: 0; }
.wipe .shot .edge { position: absolute; top: 0; bottom: 0; width: 1px; background: #fff; box-shadow: 0 0 4px #000; }
.zoomable .shot img { cursor: zoom-in; }
dialog { border: 0; padding: 0; background: none; max-width: 98vw; max-height: 98vh; overflow: hidden; }
dialog::backdrop { background: #000e; }
dialog img { display: block; width: 96vw; height: 95vh; object-fit: contain; cursor: zoom-out; }

@media (max-width: 720px) {
  .planes { grid-template-columns: 1fr !important; }
  td.plot, th.plot { min-width: 150px; }
  header, main, footer { padding-left: 14px; padding-right: 14px; }
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin-bottom: 8px; }
}
@media print {
  :root {
    color-scheme: light;
    --page: #fff; --card: #fff; --text: #000; --muted: #444; --line: #ccc;
    --accent: #0b6a8f; --before: #a3610f; --after: #0b6a8f; --warn: #fff; --shadow: none;
  }
  @page { margin: 13mm; }
  html { font-size: 9.5pt; }
  body { font-size: 9.5pt; }
  header, main, footer { max-width: none; padding: 0; }
  h2 { margin-top: 1.6em; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(110px, 1fr)); gap: 8px; }
  .tile { padding: 9px 11px; }
  .tile dd { font-size: 1.35rem; }
  .tile .was { font-size: 1.05rem; }
  .planes { max-width: 74%; margin-left: auto; margin-right: auto; }
  .shot { font-size: 10px; }
  figure { padding: 10px; margin-top: 12px; }
  .two { grid-template-columns: 1fr 1fr; }
  th, td { padding: 3px 7px; }
  td.plot, th.plot { min-width: 90px; width: 24%; }
  ol.definitions { columns: 2; }
  figure, .tile, tr, li, dl.facts { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .wipe { display: none; }
  .scroll { overflow: visible; break-inside: avoid; }
  svg, .key, .shot, .tag { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

# Reading needs no script: it adds a wipe between the pictures that are there anyway, and a larger view on a click.
SCRIPT = """
(function () {
  var box = document.getElementById("wipe");
  function picture(kind, plane) {
    return document.querySelector('img[data-picture="' + kind + "-" + plane + '"]');
  }
  if (box) {
    var range = box.querySelector("[type=range]"), row = box.querySelector(".planes"), parts = [];
    ["axial", "coronal", "sagittal", "picture"].forEach(function (plane) {
      var below = picture("fixed", plane);
      if (!below || !picture("warped", plane)) return;
      var shot = below.parentNode.cloneNode(true);
      var top = document.createElement("img"), edge = document.createElement("span");
      shot.querySelector(".tag").textContent = plane;
      shot.querySelector("img").removeAttribute("data-picture");
      top.className = "top";
      top.alt = "";
      edge.className = "edge";
      shot.insertBefore(top, shot.children[1]);
      shot.appendChild(edge);
      row.appendChild(shot);
      row.style.gridTemplateColumns = below.parentNode.parentNode.style.gridTemplateColumns;
      parts.push({ plane: plane, top: top, edge: edge });
    });
    var draw = function () {
      var at = Number(range.value), kind = box.querySelector("[type=radio]:checked").value;
      parts.forEach(function (part) {
        var source = picture(kind, part.plane).src;
        if (part.top.src !== source) part.top.src = source;
        part.top.style.clipPath = "inset(0 0 0 " + at + "%)";
        part.edge.style.left = at + "%";
        part.edge.hidden = at <= 0 || at >= 100;
      });
    };
    box.addEventListener("input", draw);
    draw();
    box.hidden = false;
  }
  if (window.HTMLDialogElement) {
    var view = document.createElement("dialog"), large = document.createElement("img");
    view.appendChild(large);
    document.body.appendChild(view);
    document.body.classList.add("zoomable");
    view.addEventListener("click", function () { view.close(); });
    document.addEventListener("click", function (event) {
      var image = event.target;
      if (image.tagName !== "IMG" || !image.closest("figure") || image.closest(".wipe")) return;
      large.src = image.src;
      large.alt = image.alt;
      view.showModal();
    });
  }
})();
"""
