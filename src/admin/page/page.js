// Liveness only: the page is whole without this. A word from the server means that there is something new; the page is
// then asked for again and its main part put in place, with the focus where it was.
'use strict';
const live = document.getElementById('live');
let asking = false;
let again = false;
let quietUntil = 0;

async function refresh() {
  if (asking) { again = true; return; }
  // Nobody's selection is taken away, and no word that was just said.
  const selection = getSelection();
  if (Date.now() < quietUntil || (selection && !selection.isCollapsed)) return;
  asking = true;
  try {
    const answer = await fetch(location.href, { headers: { accept: 'text/html' } });
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
      const fresh = page.querySelector('main');
      const focused = document.activeElement && document.activeElement.id;
      const open = [...document.querySelectorAll('details[open]')].map((one) => one.id);
      document.querySelector('main').replaceWith(fresh);
      open.forEach((id) => document.getElementById(id)?.setAttribute('open', ''));
      if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
      tick();
    }
  } catch {
    live.textContent = 'not answering';
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

function tick() {
  const now = Date.now() / 1000;
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

const source = new EventSource('/events');
source.onopen = () => { live.textContent = 'live'; };
source.onmessage = () => { live.textContent = 'live'; refresh(); };
source.onerror = () => { live.textContent = 'not answering'; };
setInterval(tick, 1000);
tick();
