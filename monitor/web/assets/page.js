// Keeps the page as it is on the server: what to show comes as JSON, and goes
// into the page as text. A change on this host is told by the events; what
// tells no event, such as time passing, is asked for.
"use strict";

const every = 5000; // ms between looks
const settle = 250; // ms that changes have to come together

const page = document.body.dataset;
const live = document.getElementById("live");
let events = null; // the EventSource
let soon = 0; // the timer of a look that is due
let looking = false;
let again = false; // something changed while looking

function put(element, text, style) {
	if (element.textContent !== text) {
		element.textContent = text;
	}
	if (element.className !== style) {
		element.className = style;
	}
}

// children makes parent have n children of a kind, keeping those it has.
function children(parent, n, tag) {
	while (parent.children.length > n) {
		parent.lastElementChild.remove();
	}
	while (parent.children.length < n) {
		parent.append(document.createElement(tag));
	}
	return parent.children;
}

function show(view) {
	const lines = children(document.getElementById("lines"), view.lines.length, "p");
	view.lines.forEach((line, i) => put(lines[i], line.text, line.style || ""));
	for (const table of view.tables) {
		const rows = children(document.getElementById(table.id), table.rows.length, "tr");
		table.rows.forEach((row, i) => {
			const cells = children(rows[i], row.length, "td");
			row.forEach((cell, k) => put(cells[k], cell.text, cell.style || ""));
		});
	}
}

function say(text, current) {
	put(live, text, "");
	document.body.classList.toggle("old", !current);
}

async function look() {
	clearTimeout(soon);
	soon = 0;
	if (looking) {
		again = true;
		return;
	}
	looking = true;
	try {
		const answer = await fetch(page.view, { cache: "no-store", signal: AbortSignal.timeout(15000) });
		if (!answer.ok) {
			throw new Error("status " + answer.status);
		}
		show(await answer.json());
		say("live", true);
	} catch (problem) {
		say("not current: the monitor does not answer (" + problem.message + ")", false);
	}
	looking = false;
	if (again) {
		again = false;
		changed();
	}
}

function changed() {
	if (soon === 0 && !document.hidden) {
		soon = setTimeout(look, settle);
	}
}

// follow listens while somebody looks: the monitor has few places for those
// who do.
function follow() {
	if (document.hidden) {
		events?.close();
		events = null;
		return;
	}
	// It comes back by itself, but not where there was no place for it.
	if (page.events && (events === null || events.readyState === EventSource.CLOSED)) {
		events = new EventSource(page.events);
		for (const kind of ["snapshot", "event", "update"]) {
			events.addEventListener(kind, changed);
		}
	}
	changed();
}

document.addEventListener("visibilitychange", follow);
setInterval(follow, every);
follow();
