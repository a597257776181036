"""Style sheet and script of a batch's page, beyond those of every report."""

from __future__ import annotations

STYLE = """
:root { --good: #2e7d4f; --bad: #b3261e; --rest: #7a8591; --over: #0b6a8f0d; }
@media (prefers-color-scheme: dark) {
  :root { --good: #6fcf97; --bad: #ff8a80; --rest: #8e99a5; --over: #5cc3ea14; }
}
header, main, footer { max-width: 1560px; }
[hidden] { display: none !important; }
.failures { border-left: 4px solid var(--bad); }
.failures p, .note { max-width: none; }
.failures li { overflow-wrap: anywhere; }
.failures b { font-weight: 600; }
button { font: inherit; color: inherit; }
.link { background: none; border: 0; padding: 0; color: var(--accent); text-decoration: underline; cursor: pointer; }
.link { text-underline-offset: 2px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 4px; }

.controls { display: flex; flex-wrap: wrap; gap: 10px 20px; align-items: center; margin: 12px 0 0; font-size: .92rem; }
.controls input[type=search] {
  font: inherit; color: var(--text); background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 6px 12px; width: 280px; max-width: 100%;
}
.controls fieldset {
  border: 1px solid var(--line); border-radius: 8px; padding: 0; margin: 0; display: flex; overflow: hidden;
  background: var(--card);
}
.controls label { position: relative; padding: 6px 13px; cursor: pointer; color: var(--muted); }
.controls label + label { border-left: 1px solid var(--line); }
.controls label input { position: absolute; opacity: 0; inset: 0; margin: 0; cursor: pointer; }
.controls label:has(:checked) { background: var(--accent); color: var(--card); }
.controls label:has(:focus-visible) { outline: 2px solid var(--accent); outline-offset: -4px; }
.controls label:has(:checked:focus-visible) { outline-color: var(--card); }
.controls output { color: var(--muted); font-variant-numeric: tabular-nums; margin-left: auto; }

.pairs { max-height: max(420px, 86vh); overflow: auto; overscroll-behavior: contain auto; }
.pairs table { border-collapse: separate; border-spacing: 0; font-size: .875rem; }
/* Whole pixels: else a stuck cell may cover the line above it. */
.pairs th, .pairs td { line-height: 20px; }
.pairs thead { position: sticky; top: 0; z-index: 2; }
.pairs thead th { background: var(--card); padding-bottom: 7px; }
.pairs thead tr:first-child th[colspan] { padding-top: 9px; text-align: center; white-space: normal; }
.pairs thead tr:first-child th:not([colspan]), .pairs thead tr + tr th { border-bottom: 1px solid var(--rest); }
.pairs thead tr + tr th { padding-top: 2px; }
.pairs [scope=row] { max-width: 30ch; overflow-wrap: break-word; }
.pairs tr > [scope=row], .pairs thead tr:first-child th:first-child {
  position: sticky; left: 0; background: var(--card); z-index: 1;
}
.pairs td, .pairs th { padding-left: 9px; padding-right: 10px; }
.pairs .files { padding-right: 16px; }
.pairs thead tr + tr th:first-child { text-align: right; padding-left: 8px; }
.pairs thead tr:first-child th:first-child, .pairs [scope=row] { padding-left: 16px; }
.pairs td:nth-child(2), .pairs thead tr:first-child th:nth-child(2), .pairs .files, .pairs td.reason {
  text-align: left;
}
.pairs .first { border-left: 1px solid var(--line); }
.pairs td.reason { white-space: normal; overflow-wrap: anywhere; color: var(--muted); min-width: 34ch; }
.pairs td.files a + a { margin-left: 12px; }
.pairs tbody tr:hover > * { background-image: linear-gradient(var(--over), var(--over)); }
.pairs thead br { display: none; }
.pairs thead [rowspan] br { display: inline; }
.pairs thead button {
  background: none; border: 0; padding: 0; margin: 0; font-weight: 600; cursor: pointer; text-align: inherit;
  white-space: nowrap; position: relative;
}
/* Beside the text, where cells have room: sorting moves nothing. */
.pairs thead button::after {
  content: "▲"; font-size: 8px; position: absolute; bottom: 0; right: calc(100% + 2px); opacity: 0;
}
.pairs thead th[data-kind=text] button::after { right: auto; left: calc(100% + 4px); }
.pairs thead th:hover button::after { opacity: .35; }
.pairs thead th[aria-sort] { color: var(--text); }
.pairs thead th[aria-sort] button::after { opacity: 1; }
.pairs thead th[aria-sort=descending] button::after { content: "▼"; }
.status::before {
  content: ""; display: inline-block; width: 8px; height: 8px; border-radius: 50%; margin-right: 7px;
  background: var(--rest); vertical-align: 1px;
}
.status.done::before { background: var(--good); }
.status.kept::before { background: none; box-shadow: inset 0 0 0 2px var(--good); }
.status.failed::before { background: var(--bad); border-radius: 1px; }
.status.failed { color: var(--bad); }
.nothing { padding: 22px 18px; color: var(--muted); margin: 0; max-width: none; }
.measures { max-height: max(420px, 86vh); overflow: auto; }
.measures thead th { position: sticky; top: 0; background: var(--card); z-index: 1; }
.measures table { border-collapse: separate; border-spacing: 0; }

.plots { columns: 3 360px; column-gap: 16px; margin: 14px 0 -16px; }
.plots figure { margin: 0 0 16px; padding: 14px 16px 12px; break-inside: avoid; }
.plots h3 { margin: 0 0 2px; }
svg.boxes { display: block; width: 100%; }

dialog.viewer {
  width: min(1240px, 96vw); height: 94vh; max-height: none; border-radius: 12px; background: var(--page);
  color: var(--text); border: 1px solid var(--line); overflow: auto; padding: 0;
}
.viewer .top {
  position: sticky; top: 0; z-index: 2; background: var(--page); border-bottom: 1px solid var(--line);
  display: flex; align-items: center; gap: 10px; padding: 10px 18px;
}
.viewer h2 { margin: 0 auto 0 0; font-size: 1.1rem; overflow-wrap: anywhere; }
.viewer .top button {
  border: 1px solid var(--line); border-radius: 8px; background: var(--card); padding: 4px 12px; cursor: pointer;
}
.viewer .top button:disabled { opacity: .4; cursor: default; }
.viewer .body { padding: 0 18px 18px; }
.viewer figure { break-inside: avoid; }
.viewer .planes a { display: block; align-self: start; }
.viewer .planes img { cursor: zoom-in; min-height: 40px; }

@media (max-width: 720px) {
  .controls input[type=search] { width: 100%; }
  .controls output { margin-left: 0; }
  .controls label { padding: 6px 10px; }
  .pairs [scope=row] { max-width: 18ch; }
  .pairs thead tr:first-child th:first-child, .pairs [scope=row] { padding-left: 12px; }
}
@media print {
  :root { --good: #2e7d4f; --bad: #b3261e; --rest: #7a8591; --over: transparent; }
  @page { size: A4 landscape; margin: 11mm; }
  .controls, .viewer, td.files, th.files, .nothing, .failures .link { display: none !important; }
  .pairs, .measures { max-height: none; overflow: visible; break-inside: auto; }
  .pairs thead, .pairs tr > [scope=row], .pairs thead tr:first-child th:first-child, .measures thead th {
    position: static;
  }
  .pairs table, .measures table { font-size: 8pt; }
  /* Buttons are lost where a heading is repeated on the next page. */
  .pairs thead button { display: contents; }
  .pairs thead button::after { content: none !important; }
  .pairs th, .pairs td { padding: 2px 5px; line-height: 1.25; }
  .plots { columns: 3; column-gap: 10px; margin-bottom: -10px; }
  .plots figure { margin-bottom: 10px; padding: 8px 10px; }
  .status::before { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

# Reading needs no script: it sorts and filters a table that is there anyway, and shows a pair's pictures together.
SCRIPT = """
(function () {
  var area = document.getElementById("pairs"), table = area && area.querySelector("table");
  if (!table) return;
  var body = table.tBodies[0], words = new Intl.Collator(undefined, { numeric: true });
  var controls = document.getElementById("controls"), search = controls.querySelector("[type=search]");
  var nothing = document.getElementById("nothing"), count = controls.querySelector("output");
  var rows = Array.prototype.map.call(body.rows, function (row, place) {
    return { row: row, place: place, status: row.cells[1].textContent, text: said(row), keys: {} };
  });
  var order = rows.slice();

  function said(row) {
    var reason = row.querySelector(".reason");
    return (row.cells[0].textContent + " " + (reason ? reason.textContent : "")).toLowerCase();
  }

  // ---------------------------------------------------------------- sorting

  function key(item, column, kind) {
    if (!(column in item.keys)) {
      var cell = item.row.cells[column], data = null;
      if (kind === "text") data = cell.textContent;
      else if (cell && cell.firstChild && cell.firstChild.value !== undefined) data = Number(cell.firstChild.value);
      item.keys[column] = data;
    }
    return item.keys[column];
  }
  function sort(head) {
    var column = Number(head.dataset.column), kind = head.dataset.kind, was = head.getAttribute("aria-sort");
    var now = { ascending: "descending", descending: null }[was];
    if (now === undefined) now = "ascending";
    Array.prototype.forEach.call(table.querySelectorAll("[aria-sort]"), function (other) {
      other.removeAttribute("aria-sort");
    });
    if (now === null) {
      order.sort(function (a, b) { return a.place - b.place; });
    } else {
      var sign = now === "ascending" ? 1 : -1;
      head.setAttribute("aria-sort", now);
      // Sorting is stable; what is missing comes last both ways.
      order.sort(function (a, b) {
        var x = key(a, column, kind), y = key(b, column, kind);
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (kind === "text" ? words.compare(x, y) : x - y);
      });
    }
    var all = document.createDocumentFragment();
    order.forEach(function (item) { all.appendChild(item.row); });
    body.appendChild(all);
    area.scrollTop = 0;
  }
  table.tHead.addEventListener("click", function (event) {
    var head = event.target.closest("th[data-column]");
    if (head) sort(head);
  });

  // ---------------------------------------------------------------- filters

  function filter() {
    var wanted = search.value.trim().toLowerCase().split(/\\s+/), shown = 0;
    var status = controls.querySelector("[type=radio]:checked").value;
    rows.forEach(function (item) {
      var fits = (!status || item.status === status) && wanted.every(function (word) {
        return item.text.indexOf(word) >= 0;
      });
      if (item.row.hidden === fits) item.row.hidden = !fits;
      shown += fits;
    });
    count.textContent = shown === rows.length ? rows.length.toLocaleString("en") + " pairs" :
      shown.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " pairs";
    nothing.hidden = shown > 0;
  }
  controls.addEventListener("input", filter);
  controls.hidden = false;
  filter();
  var failures = document.getElementById("show-failures");
  if (failures) {
    failures.hidden = false;
    failures.addEventListener("click", function () {
      search.value = "";
      controls.querySelector("[value=failed]").checked = true;
      filter();
      area.scrollTop = 0;
      controls.scrollIntoView();
    });
  }

  // ---------------------------------------------------------------- pictures

  var sets = JSON.parse(area.dataset.pictures || "[]");
  if (!sets.length || !window.HTMLDialogElement) return;
  var view = document.createElement("dialog"), top = element("div", "top"), content = element("div", "body");
  var title = element("h2"), before = button("Previous"), after = button("Next"), close = button("Close"), shown = null;
  view.className = "viewer";
  view.setAttribute("aria-label", "Pictures of a pair");
  [title, before, after, close].forEach(function (part) { top.appendChild(part); });
  view.appendChild(top);
  view.appendChild(content);
  document.body.appendChild(view);

  function element(tag, name, text) {
    var made = document.createElement(tag);
    if (name) made.className = name;
    if (text) made.textContent = text;
    return made;
  }
  function button(text) {
    var made = element("button", "", text);
    made.type = "button";
    return made;
  }
  function link(item) { return item.row.querySelector("a[data-pictures]"); }
  function beside(step) {
    var at = order.indexOf(shown) + step;
    while (order[at] && (order[at].row.hidden || !link(order[at]))) at += step;
    return order[at];
  }
  function show(item) {
    var source = link(item), folder = source.getAttribute("href").replace(/[^/]*$/, "");
    shown = item;
    title.textContent = item.row.cells[0].textContent;
    content.textContent = "";
    sets[Number(source.dataset.pictures)].forEach(function (group) {
      var figure = element("figure"), caption = element("figcaption"), words = element("p");
      group.rows.forEach(function (shots) {
        var line = element("div", "planes");
        line.style.gridTemplateColumns = "repeat(" + shots.length + ", 1fr)";
        // All slices of a row at one scale, as wide as they are.
        function fit() {
          var wide = Array.prototype.map.call(line.querySelectorAll("img"), function (i) { return i.naturalWidth; });
          if (Math.min.apply(null, wide) > 0) line.style.gridTemplateColumns = wide.join("fr ") + "fr";
        }
        shots.forEach(function (shot) {
          var frame = element("a", "shot"), image = element("img");
          frame.href = image.src = folder + shot[0] + ".png";
          image.loading = "lazy";
          image.addEventListener("load", fit);
          image.alt = group.heading + ", " + shot[1];
          frame.appendChild(image);
          frame.appendChild(element("span", "tag", shot[1]));
          line.appendChild(frame);
        });
        figure.appendChild(line);
      });
      words.appendChild(element("b", "", group.heading));
      caption.appendChild(words);
      figure.appendChild(caption);
      content.appendChild(figure);
    });
    before.disabled = !beside(-1);
    after.disabled = !beside(1);
    if (!view.open) view.showModal();
    view.scrollTop = 0;
  }
  function go(step) {
    var next = beside(step);
    if (next) show(next);
  }
  before.addEventListener("click", function () { go(-1); });
  after.addEventListener("click", function () { go(1); });
  close.addEventListener("click", function () { view.close(); });
  view.addEventListener("click", function (event) { if (event.target === view) view.close(); });
  view.addEventListener("keydown", function (event) {
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  });
  body.addEventListener("click", function (event) {
    var source = event.target.closest("a[data-pictures]");
    // With a key held, or another button, the browser does what it always does with a link.
    if (!source || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    show(rows.filter(function (item) { return item.row === source.closest("tr"); })[0]);
  });
})();
"""
