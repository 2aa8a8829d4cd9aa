/**
 * Readers of what apt and dpkg print and keep: the simulation, deb822 stanzas, the status database, the automatic
 * marks, Release files, the history log and the status descriptor. Pure; each is tested on captured text.
 * What is not understood is left out here and noticed by the caller, who compares counts.
 */
import { INTERRUPTED_STATES } from '../../protocol/plan.ts'

export type SimulatedAction = {
  readonly kind: 'install' | 'configure' | 'remove'
  readonly name: string
  /** Null for a removal of a package of the machine's own architecture, where apt does not say it. */
  readonly arch: string | null
  /** The version before, null for a new package. */
  readonly from: string | null
  /** The version after, null for a removal. */
  readonly version: string | null
}
export type Simulation = {
  readonly actions: readonly SimulatedAction[]
  readonly keptBack: readonly string[]
  /** From apt's own summary: upgraded, newly installed, to remove, not upgraded; null when it printed none. */
  readonly counts: {
    readonly upgraded: number
    readonly added: number
    readonly removed: number
    readonly kept: number
  } | null
}

const INSTALL_LINE = /^(Inst|Conf) ([^\s:]+)(?::\S+)?(?: \[([^\]\s]+)\])? \((\S+)(?: .*)? \[([a-z0-9-]+)\]\)/
const REMOVE_LINE = /^(?:Remv|Purg) ([^\s:]+)(?::(\S+))? \[([^\]\s]+)\]/
const COUNTS_LINE =
  /^(\d+) upgraded, (\d+) newly installed, (?:(\d+) reinstalled, )?(?:(\d+) downgraded, )?(\d+) to remove and (\d+) not upgraded\.$/

/** `apt-get -s dist-upgrade`. */
export function parseSimulation(text: string): Simulation {
  const actions: SimulatedAction[] = []
  const keptBack: string[] = []
  let counts: Simulation['counts'] = null
  let isKeptBlock = false
  for (const line of text.split('\n')) {
    if (line.startsWith('  ') && isKeptBlock) {
      keptBack.push(...line.trim().split(/\s+/))
      continue
    }
    isKeptBlock = line === 'The following packages have been kept back:'
    const install = INSTALL_LINE.exec(line)
    if (install !== null) {
      const [, verb, name, from, version, arch] = install
      actions.push({
        kind: verb === 'Inst' ? 'install' : 'configure',
        name: name ?? '',
        arch: arch ?? null,
        from: from ?? null,
        version: version ?? null,
      })
      continue
    }
    const remove = REMOVE_LINE.exec(line)
    if (remove !== null) {
      actions.push({
        kind: 'remove',
        name: remove[1] ?? '',
        arch: remove[2] ?? null,
        from: remove[3] ?? null,
        version: null,
      })
      continue
    }
    const summary = COUNTS_LINE.exec(line)
    if (summary !== null) {
      const [, upgraded, added, , , removed, kept] = summary.map(Number)
      counts = { upgraded: upgraded ?? 0, added: added ?? 0, removed: removed ?? 0, kept: kept ?? 0 }
    }
  }
  return { actions, keptBack, counts }
}

/** Stanzas of deb822 text; field names in lower case, continuation lines joined by a line feed. */
export function parseStanzas(text: string): Map<string, string>[] {
  const stanzas: Map<string, string>[] = []
  let now = new Map<string, string>()
  let field = ''
  for (const line of text.split('\n')) {
    if (line.trim() === '') {
      if (now.size > 0) stanzas.push(now)
      now = new Map()
      field = ''
    } else if (/^\s/.test(line)) {
      if (field !== '') now.set(field, `${now.get(field) ?? ''}\n${line.trim()}`)
    } else {
      const colon = line.indexOf(':')
      if (colon < 1) continue
      field = line.slice(0, colon).toLowerCase()
      now.set(field, line.slice(colon + 1).trim())
    }
  }
  if (now.size > 0) stanzas.push(now)
  return stanzas
}

export type Archive = {
  readonly name: string
  readonly arch: string
  readonly version: string
  readonly sha256: string
  readonly size: number
  readonly installedBytes: number
}

/** `apt-cache show`: only stanzas of an index have a hash; the one of the status database is passed over. */
export function parseArchives(text: string): Archive[] {
  return parseStanzas(text).flatMap((stanza) => {
    const sha256 = stanza.get('sha256')?.toLowerCase()
    const name = stanza.get('package')
    if (sha256 === undefined || name === undefined) return []
    return [
      {
        name,
        arch: stanza.get('architecture') ?? '',
        version: stanza.get('version') ?? '',
        sha256,
        size: Number(stanza.get('size') ?? 'NaN'),
        installedBytes: Number(stanza.get('installed-size') ?? '0') * 1024,
      },
    ]
  })
}

export type PackageState = {
  readonly name: string
  readonly arch: string
  readonly version: string
  /** dpkg's word: `installed`, `config-files`, `half-configured`, ... */
  readonly state: string
  readonly isHeld: boolean
  readonly section: string
  readonly installedBytes: number
}

/** `/var/lib/dpkg/status`, by `name:arch`. */
export function parseDpkgStatus(text: string): Map<string, PackageState> {
  const packages = new Map<string, PackageState>()
  for (const stanza of parseStanzas(text)) {
    const name = stanza.get('package')
    const arch = stanza.get('architecture')
    const [want, , state] = (stanza.get('status') ?? '').split(' ')
    if (name === undefined || arch === undefined || state === undefined) continue
    packages.set(`${name}:${arch}`, {
      name,
      arch,
      version: stanza.get('version') ?? '',
      state,
      isHeld: want === 'hold',
      section: stanza.get('section') ?? '',
      installedBytes: Number(stanza.get('installed-size') ?? '0') * 1024,
    })
  }
  return packages
}

export type InterruptedState = (typeof INTERRUPTED_STATES)[number]
export function interruptedStateOf(state: string): InterruptedState | null {
  return INTERRUPTED_STATES.find((one) => one === state) ?? null
}

/**
 * `/var/lib/apt/extended_states`: the `name:arch` of packages marked automatic. apt keeps packages of architecture
 * `all` under the machine's own architecture there.
 */
export function parseAutomatic(text: string): Set<string> {
  const automatic = new Set<string>()
  for (const stanza of parseStanzas(text)) {
    if (stanza.get('auto-installed') !== '1') continue
    automatic.add(`${stanza.get('package') ?? ''}:${stanza.get('architecture') ?? ''}`)
  }
  return automatic
}

export type Release = {
  readonly suite: string
  readonly dateAt: number | null
  readonly validUntilAt: number | null
  readonly number: string | null
}

/** An InRelease or Release file. `number` is the build that it names: `Build`, or `Version` when that is digits only. */
export function parseRelease(text: string): Release {
  const stanza =
    parseStanzas(text.replace(/^-----BEGIN PGP SIGNED MESSAGE-----\n(?:[A-Z][A-Za-z]*: .*\n)*\n/, '')).at(0) ??
    new Map<string, string>()
  const instantOf = (field: string) => {
    const at = Date.parse(stanza.get(field) ?? '')
    return Number.isNaN(at) ? null : at
  }
  const number = stanza.get('build') ?? stanza.get('version') ?? ''
  return {
    suite: stanza.get('suite') ?? stanza.get('codename') ?? '',
    dateAt: instantOf('date'),
    validUntilAt: instantOf('valid-until'),
    number: /^[0-9]{1,12}$/.test(number) ? number : null,
  }
}

/** The source that a file in `lists/` came from (apt-pkg/contrib/strutl.cc, URItoFileName), without its scheme. */
export function parseListName(name: string): { readonly uri: string; readonly suite: string } | null {
  const base = /^(.*)_(?:In)?Release$/.exec(name)?.[1]
  if (base === undefined) return null
  const unescape = (text: string) =>
    text
      .replaceAll('_', '/')
      .replaceAll(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCodePoint(parseInt(hex, 16)))
  const at = base.lastIndexOf('_dists_')
  if (at < 0) return { uri: unescape(base), suite: '/' }
  return { uri: unescape(base.slice(0, at)), suite: unescape(base.slice(at + '_dists_'.length)) }
}

export type HistoryEntry = { readonly commandLine: string; readonly ended: boolean; readonly error: string | null }

/** `/var/log/apt/history.log`. */
export function parseHistory(text: string): HistoryEntry[] {
  return parseStanzas(text)
    .filter((stanza) => stanza.has('start-date'))
    .map((stanza) => ({
      commandLine: stanza.get('commandline') ?? '',
      ended: stanza.has('end-date'),
      error: stanza.get('error') ?? null,
    }))
}

export type Progress = { readonly percent: number; readonly label: string }

/** A line of `APT::Status-Fd`: `pmstatus:liba:4.7619:Unpacking liba (amd64)`. */
export function parseProgress(line: string): Progress | null {
  const match = /^(?:pm|dl)status:[^:]*(?::[a-z0-9-]+)?:([0-9.]+):(.*)$/.exec(line)
  if (match === null) return null
  const percent = Number(match[1])
  if (Number.isNaN(percent)) return null
  return { percent: Math.min(100, Math.max(0, percent)), label: (match[2] ?? '').slice(0, 200) }
}

export type HookAction = {
  readonly name: string
  readonly oldVersion: string | null
  readonly oldArch: string | null
  readonly newVersion: string | null
  readonly newArch: string | null
  /** The archive to unpack, or what else is done. */
  readonly action:
    | { readonly kind: 'unpack'; readonly path: string }
    | { readonly kind: 'configure' }
    | { readonly kind: 'remove' }
}

/** What apt writes to a `DPkg::Pre-Install-Pkgs` hook of version 3; null when it isn't that. */
export function parseHookInput(text: string): HookAction[] | null {
  const end = text.indexOf('\n\n')
  if (!text.startsWith('VERSION 3\n') || end < 0) return null
  const actions: HookAction[] = []
  for (const line of text.slice(end + 2).split('\n')) {
    if (line === '') continue
    const match = /^(\S+) (\S+) (\S+) \S+ [<=>] (\S+) (\S+) \S+ (.+)$/.exec(line)
    if (match === null) return null
    const [, name = '', oldVersion = '-', oldArch = '-', newVersion = '-', newArch = '-', what = ''] = match
    const orNull = (value: string) => (value === '-' ? null : value)
    actions.push({
      name,
      oldVersion: orNull(oldVersion),
      oldArch: orNull(oldArch),
      newVersion: orNull(newVersion),
      newArch: orNull(newArch),
      action:
        what === '**CONFIGURE**'
          ? { kind: 'configure' }
          : what === '**REMOVE**'
            ? { kind: 'remove' }
            : { kind: 'unpack', path: what },
    })
  }
  return actions
}
