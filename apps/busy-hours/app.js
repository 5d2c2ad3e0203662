// Calls outside of office hours are sent elsewhere or answered busy; others go to the registered phones.
import config from 'outlast:app/config@0.1.0';
import log from 'outlast:app/log@0.1.0';
import session from 'outlast:app/session@0.1.0';
import sip from 'outlast:app/sip@0.1.0';

const DAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const MINUTE = 60_000;
const DAY = 24 * 60;

/// Minutes since midnight of `18:05`; `24:00` is the end of the day.
function minutes(clock) {
  const match = /^(\d\d):(\d\d)$/.exec(clock);
  const at = match && Number(match[1]) * 60 + Number(match[2]);
  if (!match || Number(match[2]) > 59 || at > DAY) throw new Error(`"${clock}" is no time of day such as 08:00`);
  return at;
}

/// Whether it is open at an instant (milliseconds since 1970), by the settings.
export function isOpen(now, settings) {
  const local = now + Number(settings.utc_offset_minutes || 0) * MINUTE;
  const day = DAYS[new Date(local).getUTCDay()];
  if ((settings.closed_days || '').split(' ').includes(day)) return false;
  const minute = Math.floor(local / MINUTE) % DAY;
  return (settings.open || '').split(' ').filter((span) => span !== '').some((span) => {
    const [from, until] = span.split('-').map(minutes);
    // A span over midnight, such as 22:00-06:00, has two parts.
    return from <= until ? from <= minute && minute < until : from <= minute || minute < until;
  });
}

function onRequest({ request, initial, message }) {
  if (!initial) return message.method() === 'BYE' ? undefined : sip.respond(request, 501, '', [], undefined);
  const settings = Object.fromEntries(config.all());
  if (isOpen(session.now(), settings)) {
    // No targets: to where the Request-URI points, which is the office's phones.
    return sip.proxy(request, [], { recordRoute: false, supervised: false, timerC: undefined, headers: [] });
  }
  if (settings.forward_to) {
    log.write('info', `closed: to ${settings.forward_to}`);
    return sip.respond(request, 302, '', [{ name: 'Contact', value: `<${settings.forward_to}>` }], undefined);
  }
  log.write('info', 'closed: busy');
  return sip.respond(request, 486, '', [], undefined);
}

export const handler = {
  handle(event) {
    if (event.tag === 'request') onRequest(event.val);
  },
};
