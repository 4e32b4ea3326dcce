"""Report style: how the page looks, in light and dark, from a telephone's width to a wall's."""

from __future__ import annotations

# Colours that people tell apart who see no red or green (Okabe and Ito), lighter on dark.
STYLE = """
:root{--back:#fcfcfa;--paper:#fff;--ink:#1d2329;--quiet:#5d6772;--rule:#dfe3e7;--grid:#eceff2;
--s1:#0067a8;--s2:#c77700;--s3:#00805c;--s4:#a8508a;--faint:#9aa4ae;--bad:#c62f1d;--good:#00805c;
--band:#c7770026}
@media (prefers-color-scheme:dark){:root{--back:#14181c;--paper:#1b2126;--ink:#e6eaee;
--quiet:#9ca8b3;--rule:#323b43;--grid:#283037;--s1:#5bb4ec;--s2:#f0ac3c;--s3:#35c99c;--s4:#e79cc9;
--faint:#6c7883;--bad:#ff7d6b;--good:#35c99c;--band:#f0ac3c26}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px 20px 48px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:17px;margin:0 0 10px}
p{margin:0 0 6px}
section{margin-top:28px}
code{font:13px/1.5 ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,monospace}
.quiet,.unit{color:var(--quiet)}
.note{border-left:3px solid var(--s2);padding-left:10px;margin-top:8px}
.verdict{font-size:14px;font-weight:600;vertical-align:middle;padding:2px 10px;border-radius:99px;
border:1.5px solid;white-space:nowrap}
.verdict.pass{color:var(--good)}.verdict.fail{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(132px,1fr));gap:10px}
.card{background:var(--paper);border:1px solid var(--rule);border-radius:8px;padding:10px 12px;
min-width:0}
.card>*{display:block}
.card .quiet{font-size:13px}
.card b{font-size:21px;font-weight:600;font-variant-numeric:tabular-nums}
.card small{font-size:13px;font-weight:400;color:var(--quiet)}
.change{font-size:13px;color:var(--quiet);white-space:nowrap}
.change.better{color:var(--good)}.change.worse{color:var(--bad)}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:4px 14px 4px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule);
font-weight:400}
th{color:var(--quiet);font-size:13px;white-space:nowrap}
th.number{text-align:right}
.number{text-align:right;white-space:nowrap}
.mark{font-weight:700}
tr.pass .mark{color:var(--good)}tr.fail .mark,tr.fail .number{color:var(--bad)}
tr.none .mark{color:var(--quiet)}
.events td:nth-child(-n+3){white-space:nowrap}
.what td:first-child{color:var(--quiet);white-space:nowrap}
.what td{overflow-wrap:anywhere}
pre{background:var(--paper);border:1px solid var(--rule);border-radius:8px;padding:10px;
overflow-x:auto;font:12px/1.5 ui-monospace,"DejaVu Sans Mono",monospace}
.tables{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));
column-gap:36px;align-items:start}
.tables section{min-width:0}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:16px}
.chart{margin:0;background:var(--paper);border:1px solid var(--rule);border-radius:8px;
padding:12px 16px 10px 12px;min-width:0}
figcaption{display:flex;flex-wrap:wrap;gap:2px 10px;align-items:baseline;margin-bottom:16px;
font-size:14px}
figcaption b{font-weight:600}
.unit{font-size:13px}
.legend{display:flex;flex-wrap:wrap;gap:0 12px;margin-left:auto;font-size:13px}
.legend span{white-space:nowrap}
.swatch{display:inline-block;width:14px;height:3px;margin-right:5px;vertical-align:middle;
background:currentColor}
.plot{display:grid;grid-template-columns:46px minmax(0,1fr);grid-template-rows:180px 20px;
column-gap:8px}
.y,.x,.area{position:relative}
.y span{position:absolute;right:0;transform:translateY(50%);font-size:12px;color:var(--quiet);
line-height:1;white-space:nowrap}
.x{grid-column:2}
.x span{position:absolute;top:5px;transform:translateX(-50%);font-size:12px;color:var(--quiet);
line-height:1;white-space:nowrap}
.x span:first-child{transform:none}
.x span.last{transform:translateX(-100%)}
.area svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
.line,.grid,.stroke{fill:none;vector-effect:non-scaling-stroke}
.stroke{stroke:var(--s2);stroke-width:1;opacity:.7}
.line{stroke:currentColor;stroke-width:1.6;stroke-linejoin:round}
.grid{stroke:var(--grid);stroke-width:1}
.fill{fill:currentColor;opacity:.12}
.band{fill:var(--band)}
.column{fill:transparent}
.column:hover{fill:currentColor;opacity:.08}
.flag{position:absolute;top:-13px;transform:translateX(-50%);font-size:11px;line-height:1;
color:var(--s2);font-weight:600;cursor:default}
.flag.flip{transform:translateX(-100%)}
.s1{color:var(--s1)}.s2{color:var(--s2)}.s3{color:var(--s3)}.s4{color:var(--s4)}
.faint{color:var(--faint)}.bad{color:var(--bad)}
@media (max-width:560px){main{padding:16px 12px 32px}.wide{display:none}
.card b{font-size:19px}.legend{margin-left:0;width:100%}}
@media print{body{background:#fff}.chart,.card{break-inside:avoid}}
"""
