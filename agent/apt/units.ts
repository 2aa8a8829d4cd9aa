/** How systemd's units are asked for, and which of them a run should leave as they were. Pure. */

export type Unit = {
  readonly id: string
  /** `loaded`, `not-found`, `masked`, ... */
  readonly load: string
  /** `active`, `activating`, `inactive`, `failed`, ... */
  readonly active: string
  readonly sub: string
  /** `enabled`, `static`, `disabled`, ... or '' */
  readonly file: string
  /** Something else starts it when it is wanted, so it may well rest. */
  readonly isTriggered: boolean
}

const PROPERTIES = ['Id', 'LoadState', 'ActiveState', 'SubState', 'UnitFileState', 'TriggeredBy'] as const

/** `also` are asked for by name, because systemd forgets a unit that stopped and that nothing refers to. */
export function unitsArgv(also: readonly string[]): string[] {
  return [
    'systemctl',
    'show',
    '--no-pager',
    `--property=${PROPERTIES.join(',')}`,
    '--',
    '*.service',
    '*.socket',
    '*.timer',
    '*.path',
    '*.mount',
    ...also,
  ]
}

/** `systemctl show` of several units: blocks of `Key=value`, with an empty line between. */
export function parseUnits(text: string): Unit[] {
  const units = new Map<string, Unit>()
  for (const block of text.split('\n\n')) {
    const fields = new Map(
      block.split('\n').map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)] as const),
    )
    const id = fields.get('Id')
    const active = fields.get('ActiveState')
    if (id === undefined || active === undefined || !/\.(service|socket|timer|path|mount)$/.test(id)) continue
    units.set(id, {
      id,
      load: fields.get('LoadState') ?? '',
      active,
      sub: fields.get('SubState') ?? '',
      file: fields.get('UnitFileState') ?? '',
      isTriggered: (fields.get('TriggeredBy') ?? '') !== '',
    })
  }
  return [...units.values()]
}

/** Static units are started by others and may rest, but without these nothing goes. */
const CORE = ['dbus.service', 'systemd-journald.service', 'systemd-logind.service', 'systemd-udevd.service']
/** smith's own: that the result arrives says all of them, and of a health report nothing hangs on how it ended. */
const OWN = /^smith-(agent|run|report)\./

export function isOwn({ id }: Pick<Unit, 'id'>): boolean {
  return OWN.test(id)
}

/** A unit that is at work and that neither ends nor rests by itself: after a run it must be there again. */
export function isWatched(unit: Unit, isBooted: boolean): boolean {
  if (unit.active !== 'active' || isOwn(unit)) return false
  if (CORE.includes(unit.id)) return true
  if (unit.isTriggered) return false
  if (['enabled', 'enabled-runtime', 'generated', 'linked', 'linked-runtime'].includes(unit.file)) return true
  // Started by hand: an upgrade must not stop it, a reboot may.
  return unit.file === 'disabled' && !isBooted
}
