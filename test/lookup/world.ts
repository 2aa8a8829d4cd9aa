/** A coordinator whose machines come from a source: the real interface, core and lookup, over real HTTP and real files. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Test } from 'tap'
import { parseConfig } from '../../coordinator/config.ts'
import { realHttp } from '../../coordinator/http.ts'
import { findingOf, missingOf, withLookup } from '../../coordinator/lookup/edge.ts'
import { readWhole } from '../../coordinator/lookup/file.ts'
import { type Lookup, createLookup } from '../../coordinator/lookup/lookup.ts'
import { readSecret } from '../../coordinator/secrets.ts'
import { type World, createWorld, realClock } from '../api/world.ts'
import { TOKEN } from './stand-in.ts'

export type LookupWorld = World & {
  readonly lookup: Lookup
  /** Every reason of the refusal, or `change` when there is none. */
  readonly told: (machines: string, key?: string) => Promise<string>
}

export function folder(t: Test): string {
  const dir = mkdtempSync(join(tmpdir(), 'smith-lookup-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return dir
}

/** A file that a test may give as the token. */
export function secretFile(t: Test, text = TOKEN): string {
  const file = join(folder(t), 'token')
  writeFileSync(file, text, { mode: 0o600 })
  return file
}

export function settingsOf(lines: string) {
  const answer = parseConfig(`instance = "test"\n[lookup]\n${lines}`, 'c.toml')
  if (!answer.ok) throw new Error(answer.refusals.map((refusal) => refusal.message).join('\n'))
  const { lookup, settings } = answer.config
  if (lookup === null || settings.lookup === undefined) throw new Error('the lines give no source')
  return { lookup, source: settings.lookup }
}

export function lookupOf(lines: string, now = Date.now): Lookup {
  const { lookup: settings, source } = settingsOf(lines)
  return createLookup({ settings, source, clock: realClock, http: realHttp, readSecret, readFile: readWhole, now })
}

export const netboxLines = (t: Test, url: string, more = '') =>
  `source = "netbox"\nurl = "${url}"\ntoken_file = "${secretFile(t)}"\n${more}`

/** What the source says: `name [addresses] (barred)` of each machine, or why there is none. */
export async function listed(lines: string): Promise<string[] | string> {
  const known = await lookupOf(lines).ask()
  if ('problem' in known) return `${known.problem} | ${known.remedy}`
  return known.machines.map(
    ({ name, addresses, barred }) => `${name} [${addresses.join(' ')}]${barred === null ? '' : ` (${barred})`}`,
  )
}

export async function createLookupWorld(t: Test, lines: string): Promise<LookupWorld> {
  const lookup = lookupOf(lines)
  const world = await createWorld(t, {
    settings: { lookup: lookup.source },
    ports: ({ driver }) => ({
      driver: withLookup(driver, lookup),
      missing: () => missingOf(driver, lookup),
      examine: async () => [await findingOf(lookup)],
    }),
  })
  const told = async (machines: string, key?: string) => {
    const body = { text: `prod machines: ${machines} outage:0`, ...(key === undefined ? {} : { key }) }
    const made = await world.call('requestMake', 'ana', { body })
    if (made.status !== 202)
      return made.body.refusals
        .map(({ kind, message, remedy }: Record<string, string>) => `${kind}: ${message} | ${remedy}`)
        .join('\n')
    const query = '?wait=30'
    const view = await world.call('request', 'ana', { params: { request: made.body.request }, query })
    const status = await world.call('project', 'ana', { params: { change: view.body.change } })
    return status.body.status.phases
      .flatMap((phase: { bags: { machines: { name: string }[] }[] }) => phase.bags.flatMap((bag) => bag.machines))
      .map((machine: { name: string }) => machine.name)
      .join(' ')
  }
  return { ...world, lookup, told }
}
