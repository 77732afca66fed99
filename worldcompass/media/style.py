"""The style sheet of all HTML pages, for light and dark, wide and narrow screens."""

CSS = """
:root{--paper:#fbfbf9;--card:#fff;--ink:#1d2126;--muted:#5d6670;--line:#d9dcd8;--accent:#0b6e75;
--good:#136c3a;--bad:#b3261e;--wait:#7a5b00;--base:#8a939c;--engine:#5566b5}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1c2024;--ink:#e6e8ea;--muted:#a0a9b2;
--line:#343a40;--accent:#4fc3cb;--good:#6fd394;--bad:#ff8a80;--wait:#e8c04a;--base:#7d8790;--engine:#93a3f0}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",
Roboto,"DejaVu Sans",sans-serif}
main{max-width:980px;margin:0 auto;padding:24px 16px 64px}
h1{font-size:1.15rem;font-weight:600;color:var(--muted);margin:0 0 8px}
h2{font-size:1.25rem;margin:40px 0 8px}
h3{font-size:1.05rem;margin:24px 0 8px}
p{margin:8px 0}
.headline{font-size:clamp(1.3rem,4vw,1.8rem);line-height:1.3;font-weight:650;margin:12px 0}
.muted{color:var(--muted)}
.badge{display:inline-block;padding:2px 10px;border-radius:999px;border:1.5px solid currentColor;
font-weight:650;margin-right:6px;color:var(--wait)}
.badge.learning{color:var(--good)}.badge:is(.worse,.hacked,.harmed,.stuck){color:var(--bad)}
video{width:auto;height:auto;max-width:100%;max-height:88vh;display:block;border-radius:8px;background:#000}
.scroll{overflow-x:auto}
.scroll:focus-visible,pre:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:separate;border-spacing:0;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;text-align:right;border-bottom:1px solid var(--line);vertical-align:top;white-space:nowrap}
td.words{white-space:normal;min-width:180px}
th:first-child{text-align:left;white-space:normal;min-width:130px;font-weight:500}
thead th{color:var(--muted);font-weight:500;font-size:.9rem}
td b{font-weight:500}td small{display:block;color:var(--muted)}
td.good b{color:var(--good);font-weight:700}td.bad b{color:var(--bad);font-weight:700}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px}
figure.wide{margin:12px 0;max-width:100%}figure.chart{margin:12px 0;max-width:580px}
figcaption{font-size:.9rem;color:var(--muted);padding:2px 4px;overflow-wrap:anywhere}
.grid-of-charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,260px),1fr));gap:12px}
.grid-of-charts.large{grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr))}
.grid-of-charts figure{display:flex;flex-direction:column-reverse;justify-content:flex-end}
.grid-of-charts figcaption{color:var(--ink);font-weight:550}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--muted);font-size:12px;font-family:inherit}svg text.strong{fill:var(--ink);font-weight:600}
svg .axis,svg .grid{stroke:var(--line);fill:none}
svg .raw{stroke:var(--accent);opacity:.35;fill:none;stroke-width:1}
svg .smooth{stroke:var(--accent);fill:none;stroke-width:2.2;stroke-linejoin:round}
svg .dot{fill:var(--accent)}
svg .bar{fill:var(--base);opacity:.75}svg .trained .bar{fill:var(--accent)}svg .engine .bar{fill:var(--engine)}
svg .band{fill:var(--accent);opacity:.16}svg .base .band{fill:var(--base)}svg .engine .band{fill:var(--engine)}
svg .base .smooth{stroke:var(--base)}svg .engine .smooth{stroke:var(--engine);stroke-dasharray:5 4}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px}.legend b{font-weight:550;padding-left:.5em;
border-left:.7em solid var(--run,var(--accent))}.legend .base{--run:var(--base)}.legend .engine{--run:var(--engine)}
svg .whisker{stroke:var(--ink);stroke-width:1.6;fill:none}
img{display:block;max-width:none;image-rendering:pixelated}
.strips{width:min(96vw,2200px);margin-left:calc(50% - min(48vw,1100px))}.strips img{width:100%;min-width:1200px}
.strips>:is(h2,p){max-width:948px;margin-inline:auto}
details{border:1px solid var(--line);border-radius:8px;margin:12px 0;background:var(--card)}
summary{padding:10px 14px;cursor:pointer;font-weight:550}
pre{margin:0;padding:12px 14px;overflow-x:auto;border-top:1px solid var(--line);font-size:.85rem}
code{background:var(--card);border:1px solid var(--line);border-radius:4px;padding:0 4px;overflow-wrap:anywhere}
.finding{border:1px solid var(--line);border-left:5px solid var(--wait);border-radius:8px;background:var(--card);
padding:2px 14px;margin:12px 0}.finding h3{margin:10px 0 0}
.finding.stuck,.finding.harmful{border-left-color:var(--bad)}
@media (max-width:600px){th,td{padding:6px 5px}table{font-size:.85rem}td small{font-size:.72rem;white-space:normal}
th:first-child{min-width:76px;position:sticky;left:0;background:var(--paper)}
main{padding:16px 12px 48px}.strips{width:auto;margin-left:0}.scroll>table:not(.map) :is(th,td){padding:6px 3px}}
.maps{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr));gap:12px}
table.map{font-size:.8rem;width:auto;border-spacing:2px}
table.map th{font-weight:400;color:var(--muted);min-width:0;padding:2px 4px;border:0;font-size:.75rem}
table.map :is(th,td){vertical-align:middle}
table.map thead th{vertical-align:bottom;font-size:.72rem;white-space:normal;text-align:center}
table.map td small{color:inherit;font-size:.6rem;line-height:1;white-space:nowrap}
table.map td{min-width:30px;padding:4px 2px;text-align:center;border:0;border-radius:3px;
background:color-mix(in srgb,var(--accent) calc(45%*var(--share)),var(--paper))}
output{white-space:nowrap}input[type=range]{width:min(100%,280px);vertical-align:middle;accent-color:var(--accent)}
.runs{list-style:none;padding:0}.runs li{margin:8px 0}
.runs b{border-left:.7em solid var(--run,var(--accent));padding-left:.5em}
.run0{--run:#0b6e75}.run1{--run:#b3541e}.run2{--run:#5566b5}.run3{--run:#8a3a86}
.run4{--run:#5c7d12}.run5{--run:#a8892b}.run6{--run:#3b87c8}.run7{--run:#c2527f}
svg [class^=run] :is(.smooth,.dot){stroke:var(--run)}svg [class^=run] :is(.bar,.band,.dot){fill:var(--run)}
@media (prefers-color-scheme:dark){.run0{--run:#4fc3cb}.run1{--run:#ef9a66}.run2{--run:#93a3f0}.run3{--run:#d78ad3}
.run4{--run:#a9cf5a}.run5{--run:#dcc069}.run6{--run:#7cbdf2}.run7{--run:#f29abf}}
@page{margin:14mm}
@media print{.moving{display:none}:root{--paper:#fff;--card:#fff;--ink:#000;--muted:#444;--line:#bbb}
main{max-width:none;padding:0}video,input[type=range]{display:none}
section{break-inside:auto}figure,tr,details,.finding{break-inside:avoid}h2,h3{break-after:avoid}
.scroll{overflow:visible}.strips{width:auto;margin:0}img,.strips img{min-width:0;max-width:100%;height:auto}
table{font-size:.85rem}
table.map td,.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
