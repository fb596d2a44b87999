// Liveness only: the page is whole without this. A word from the server means that there is something new; the page is
// then asked for again and its main part put in place, with the focus where it was.
'use strict';
const live = document.getElementById('live');
const news = document.getElementById('news');
let asking = false;
let again = false;
let quietUntil = 0;
let source = null;
// The server's clock less this browser's, in seconds: its times are the server's.
let ahead = 0;

// Said only when it changes: a screen reader reads it out each time.
function say(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

function alerts() {
  return new Set([...document.querySelectorAll('main [data-alert]')].map((one) => one.dataset.alert));
}
let known = alerts();

// What has the focus, so that it can have it again: by its id, or as one of the links to the same place.
function focused() {
  const one = document.activeElement;
  if (!one || !one.closest('main')) return () => null;
  if (one.id) return () => document.getElementById(one.id);
  const twins = () => [...document.querySelectorAll('main a')].filter((a) => a.href === one.href);
  const at = twins().indexOf(one);
  return () => twins()[at];
}

function place(page) {
  const fresh = page.querySelector('main');
  const again = focused();
  document.querySelector('main').replaceWith(fresh);
  document.title = page.title;
  again()?.focus({ preventScroll: true });
  clock();
  tick();
  const now = alerts();
  const added = [...now].filter((one) => !known.has(one));
  if (added.length > 0) say(news, `New alert: ${added.join('; ')}`);
  known = now;
}

// Nobody's selection is taken away, and no word that was just said.
function quiet() {
  const selection = getSelection();
  return Date.now() < quietUntil || (selection && !selection.isCollapsed);
}

async function refresh() {
  if (asking) { again = true; return; }
  if (quiet()) return;
  asking = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: 'text/html' } });
    // An owner or an incident that is no longer there has a page that says so.
    if (answer.ok || answer.status === 404) {
      const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
      if (!quiet()) place(page);
      say(live, 'live');
    } else {
      say(live, `not up to date: answered ${answer.status}`);
    }
  } catch {
    say(live, 'not answering');
  } finally {
    asking = false;
    if (again) { again = false; refresh(); }
  }
}

function words(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

function clock() {
  const now = Number(document.querySelector('main').dataset.now);
  if (now > 0) ahead = now - Date.now() / 1000;
}

function tick() {
  const now = Date.now() / 1000 + ahead;
  for (const one of document.querySelectorAll('time[data-until]')) one.textContent = words(one.dataset.until - now);
  for (const one of document.querySelectorAll('time[data-since]')) one.textContent = words(now - one.dataset.since);
}

document.addEventListener('click', async (event) => {
  const button = event.target.closest('button[data-copy]');
  if (!button) return;
  const packet = document.getElementById(button.dataset.copy);
  quietUntil = Date.now() + 3000;
  const refused = new Promise((_, reject) => setTimeout(reject, 400));
  try {
    await Promise.race([navigator.clipboard.writeText(packet.textContent), refused]);
    button.textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren(packet);
    button.textContent = 'Selected: copy it';
  }
});

// A browser has six connections to a server: only a tab that is looked at keeps one for events.
function listen() {
  if (document.hidden) {
    source?.close();
    source = null;
    say(live, 'paused');
  } else if (!source) {
    source = new EventSource('/events');
    source.onopen = refresh;
    source.onmessage = refresh;
    source.onerror = () => say(live, 'not answering');
  }
}
document.addEventListener('visibilitychange', listen);
addEventListener('pagehide', () => { source?.close(); source = null; });
addEventListener('pageshow', listen);
clock();
setInterval(tick, 1000);
tick();
listen();
