"""The look of a report page: one style sheet, light and dark, from a phone's width up."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f9; --card: #ffffff; --ink: #16202c; --quiet: #5b6876; --line: #dfe4ea; --soft: #eef1f5;
  --good: #13795b; --good-soft: #e2f4ec; --bad: #b3332c; --bad-soft: #fbe9e7; --warn-soft: #fff5df; --warn: #8a5a00;
  --c0: #1f6feb; --c1: #d9580d; --c2: #14866d; --c3: #9a3fd1; --c4: #c02d6c; --c5: #7a6a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0e141b; --card: #161e28; --ink: #e6ecf3; --quiet: #9aa8b7; --line: #2a3542; --soft: #1d2733;
    --good: #5fd0a5; --good-soft: #12352a; --bad: #ff8f86; --bad-soft: #3d1d1c; --warn-soft: #352a12; --warn: #f0c36a;
    --c0: #6ea8fe; --c1: #ff9a56; --c2: #4fd1b0; --c3: #c792f5; --c4: #ff85b3; --c5: #d8c64a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.3rem); line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 12px; }
h2 { font-size: 1.2rem; letter-spacing: -0.01em; margin: 44px 0 12px; }
h3 { font-size: 1rem; margin: 0 0 4px; }
p { margin: 0 0 12px; }
.lead { font-size: 1.08rem; max-width: 68ch; }
.quiet { color: var(--quiet); font-size: .9rem; max-width: 110ch; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; }
.note { background: var(--warn-soft); color: var(--warn); border-radius: 12px; padding: 14px 18px; margin: 20px 0 0; }
.note b { display: block; }
.checks, .columns, .gallery { display: grid; gap: 16px; }
.columns { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.checks { grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); margin-top: 22px; }
.gallery { grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); align-items: start; }
.check { border-left: 5px solid var(--good); }
.check.missed { border-left-color: var(--bad); }
.check .found { font-size: 1.5rem; font-weight: 650; letter-spacing: -0.02em; line-height: 1.25; }
.badge { display: inline-block; border-radius: 999px; padding: 1px 10px; white-space: nowrap; }
.badge { font-size: .82rem; font-weight: 600; }
.good { color: var(--good); background: var(--good-soft); }
.bad { color: var(--bad); background: var(--bad-soft); }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: .82rem; font-weight: 600; color: var(--quiet); }
th { padding: 6px 12px 8px 0; vertical-align: bottom; }
td { padding: 9px 12px 9px 0; border-top: 1px solid var(--line); vertical-align: middle; overflow-wrap: anywhere; }
td:last-child, th:last-child { padding-right: 0; }
td .quiet { display: block; font-size: .82rem; }
.number { text-align: right; white-space: nowrap; }
.number + td:not(.number), .number + th:not(.number) { padding-left: 26px; }
td.strong { font-weight: 650; }
.wide { overflow-x: auto; }
.wide table { font-size: .86rem; }
.wide td, .wide th { overflow-wrap: normal; white-space: nowrap; padding: 5px 16px 5px 0; }
svg { display: block; width: 100%; height: auto; }
svg.strip { width: 210px; max-width: 100%; }
svg text { fill: var(--quiet); font-size: 13px; font-family: inherit; }
.grid { stroke: var(--line); } .axis { stroke: var(--quiet); }
.rail { stroke: var(--line); stroke-width: 2; } .mark { stroke: var(--ink); stroke-width: 2; }
.whisker { stroke-width: 5; stroke-linecap: round; opacity: .32; }
.hollow { fill: var(--card); stroke: var(--quiet); stroke-width: 1.6; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.faint { opacity: .3; stroke-width: 1.2; }
path.c0, .whisker.c0 { stroke: var(--c0); } path.c1 { stroke: var(--c1); } path.c2 { stroke: var(--c2); }
path.c3 { stroke: var(--c3); } path.c4 { stroke: var(--c4); } path.c5 { stroke: var(--c5); }
.dot.c0 { fill: var(--c0); } .dot.c1 { fill: var(--c1); } .dot.c2 { fill: var(--c2); }
.dot.c3 { fill: var(--c3); } .dot.c4 { fill: var(--c4); } .dot.c5 { fill: var(--c5); }
.key { display: inline-block; width: 18px; height: 4px; border-radius: 2px; margin: 0 7px 3px 0; }
.key.c0 { background: var(--c0); } .key.c1 { background: var(--c1); } .key.c2 { background: var(--c2); }
.key.c3 { background: var(--c3); } .key.c4 { background: var(--c4); } .key.c5 { background: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; font-size: .88rem; color: var(--quiet); margin: 0 0 6px; }
.legend b { color: var(--ink); font-weight: 600; font-variant-numeric: tabular-nums; }
.legend svg { display: inline-block; width: 26px; height: 14px; vertical-align: -2px; margin-right: 5px; }
.gallery .card { padding: 0; overflow: hidden; }
.pictures { display: flex; background: #000; }
.pictures img { flex: 1 1 0; min-width: 0; height: 220px; object-fit: contain; display: block; }
.pictures .gone { color: #ccc; padding: 24px; font-size: .9rem; overflow-wrap: anywhere; }
.asked { padding: 12px 16px 14px; border-top: 1px solid var(--line); }
.asked:first-of-type { border-top: 0; }
.question { font-weight: 600; margin: 0 0 6px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0; font-size: .93rem; }
dt { color: var(--quiet); }
dd { margin: 0; }
dd, .found { overflow-wrap: anywhere; }
.facts dl { grid-template-columns: minmax(130px, auto) 1fr; }
.asked .tail { display: flex; justify-content: space-between; align-items: center; gap: 8px; margin-top: 8px; }
.asked .tail span:last-child { color: var(--quiet); font-size: .8rem; overflow-wrap: anywhere; text-align: right; }
footer { margin-top: 48px; color: var(--quiet); font-size: .86rem; }
@media (max-width: 640px) {
  main { padding: 24px 14px 48px; }
  .stack thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  .stack tr { display: block; border-top: 1px solid var(--line); padding: 10px 0; }
  .stack tbody tr:first-child { border-top: 0; }
  .stack td, .stack .number + td:not(.number) { padding: 2px 0; }
  .stack td { display: flex; justify-content: space-between; gap: 16px; border: 0; text-align: right; }
  .stack td::before { content: attr(data-label); color: var(--quiet); font-size: .88rem; font-weight: 400; }
  .stack td.first { display: block; text-align: left; font-weight: 650; }
  .stack td.first::before { content: none; }
  .stack svg.strip { width: 60%; }
}
@media print { body { background: #fff; } .card { break-inside: avoid; } }
"""
