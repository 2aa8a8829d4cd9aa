/**
 * Tells the simulator's judge what happened on real machines, in the order in which it happened, and compares the
 * three copies of each log. The machines' claims and results come from their disks, what apt and dpkg did from their
 * own account, approvals and decisions from the oracle.
 */
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import * as v from 'valibot'
import { type GrantPayload, type RunRecord, grantPayloadSchema, inboxEntrySchema } from '../../protocol/files.ts'
import { digestText } from '../../protocol/plan.ts'
import type { Judged } from '../sim/host.ts'
import { Ledger } from '../sim/ledger.ts'
import type { Packages } from '../sim/repository.ts'
import { ALWAYS } from '../sim/schedule.ts'
import { PLAIN_TERMS } from '../sim/terms.ts'
import { outputOf } from '../site/harness.ts'
import { type Happened, PACKAGES, accountOf } from './account.ts'
import type { Oracle } from './oracle.ts'
import { type OnDisk, namesIn, ordersFolderOf, textIn } from './stages.ts'

type Happening = { readonly at: number; readonly rank: number; readonly tell: () => void }

/** A real machine before the judge: its packages are those that its own account has installed so far. */
export class Accounted implements Judged {
  readonly id: string
  readonly name: string
  readonly bootId = 'the only one'
  readonly packages: Packages = new Map()
  readonly machine: OnDisk
  /** Orders that were judged. */
  readonly known = new Set<string>()
  told = 0
  now = 0
  #aptRuns = 0

  constructor(machine: OnDisk, id: string, version: string) {
    this.machine = machine
    this.id = id
    this.name = machine.name
    for (const name of PACKAGES) this.packages.set(name, { version, state: 'installed' })
  }

  /** What its account holds so far was before the first project. */
  passOver(): void {
    this.told = accountOf(this.machine).length
  }

  wallNow(): number {
    return this.now
  }
  isInDpkg(): boolean {
    return this.#aptRuns > 0 || [...this.packages.values()].some((one) => one.state === 'unpacked')
  }
  hasClaim(): boolean {
    return true
  }

  /** Takes over one line of the account, and tells the judge what it says. */
  happened(ledger: Ledger, { who, what, order, name, version }: Happened): void {
    if (who === 'apt') {
      if (what === 'begin') ledger.aptStarted(this, order)
      this.#aptRuns += what === 'begin' ? 1 : -1
      return
    }
    if (what === 'begin' && this.#aptRuns === 0)
      ledger.violate('KIL-2 account', `${this.name} unpacked ${name} for ${order} while no apt was at work`)
    const from = this.packages.get(name)?.version ?? ''
    if (what === 'end') ledger.installed(this, order, { name, from, version })
    this.packages.set(name, { version, state: what === 'begin' ? 'unpacked' : 'installed' })
  }
}

/** Everything of one line that happened since the last time, before the judge. */
export class Judge {
  readonly ledger = new Ledger({ storedOf: () => [], now: () => Date.now(), schedule: () => ALWAYS })
  readonly machines: readonly Accounted[]
  readonly #oracle: Oracle
  #heard = 0

  constructor(oracle: Oracle, machines: readonly Accounted[]) {
    this.#oracle = oracle
    this.machines = machines
  }

  /** Called when nothing is at work on the line: all that was to happen has. */
  hear(): void {
    const happenings = [...this.#decisions(), ...this.machines.flatMap((machine) => this.#on(machine))]
    const inOrder = happenings.toSorted((a, b) => a.at - b.at || a.rank - b.rank)
    for (const { tell } of inOrder) tell()
  }

  #decisions(): Happening[] {
    const names = new Set(this.machines.map((one) => one.name))
    const fresh = this.#oracle.entries.slice(this.#heard)
    this.#heard = this.#oracle.entries.length
    return fresh.flatMap((entry): Happening[] => {
      const { at } = entry
      if (entry.what === 'approved') return [{ at, rank: 0, tell: () => void this.ledger.approved(entry.digest, at) }]
      if (entry.what !== 'retried' || !names.has(entry.machine)) return []
      return [{ at, rank: 9, tell: () => this.ledger.decided(entry.order) }]
    })
  }

  #on(host: Accounted): Happening[] {
    const dated = (at: number, rank: number, tell: () => void): Happening => ({
      at,
      rank,
      tell: () => {
        host.now = at
        tell()
      },
    })
    const account = accountOf(host.machine)
    const lines = account.slice(host.told)
    host.told = account.length
    const orders = namesIn(ordersFolderOf(host.machine)).filter((order) => !host.known.has(order))
    for (const order of orders) host.known.add(order)
    return [
      ...lines.map((line) => dated(line.at, line.what === 'begin' ? 3 : 4, () => host.happened(this.ledger, line))),
      ...orders.flatMap((order) => this.#ofOrder(host, order, dated)),
    ]
  }

  #ofOrder(host: Accounted, order: string, dated: (at: number, rank: number, tell: () => void) => Happening) {
    const folder = join(ordersFolderOf(host.machine), order)
    const fate = JSON.parse(textIn(join(folder, 'fate')) || 'null') as { fate: string; at: number } | null
    if (fate?.fate !== 'claim') return []
    const entryText = textIn(join(folder, 'grant.json'))
    this.#grant(host, order, payloadOf(entryText))
    const records = recordsIn(textIn(join(folder, 'records')))
    const last = records.at(-1)
    const claim = dated(fate.at, 2, () => this.ledger.claimed(host, order, entryText))
    if (last?.type !== 'result') {
      this.ledger.violate('KIL-2 ends', `order ${order} on ${host.name} has no result: ${folder}`)
      return [claim]
    }
    return [claim, dated(last.at, 5, () => this.ledger.ended(host, order, last))]
  }

  /** What may be granted is what the oracle saw approved, whatever the coordinator has in its books. */
  #grant(host: Accounted, order: string, payload: GrantPayload): void {
    const raised = this.#oracle.entries.find((one) => one.what === 'raised' && one.change === payload.change)
    if (raised?.what !== 'raised') return
    const approved = raised.plans[host.name]
    if (approved?.planHash !== payload.planHash)
      return this.ledger.violate('SIM-7 approved plan', `order ${order} carries plan ${payload.planHash}`)
    const { planHash, plan } = approved
    const cluster = host.name.replace(/-[a-z]+-[0-9]+$/, '')
    const { fence, startBy, outageMinutes } = payload
    const what = { cluster, digest: raised.digest, plan, planHash }
    this.ledger.terms.asked('', PLAIN_TERMS)
    const machines = Object.keys(raised.plans).map((name) => ({ name, isEmpty: false }))
    this.ledger.terms.shown(payload.change, '', machines)
    // When it was granted only the coordinator knows, and it matters only where a window was asked for.
    const when = { at: startBy, startBy, fence, outageMinutes }
    this.ledger.granted(order, { project: payload.change, name: host.name, ...what, ...when })
  }

  /** Stored, recorded on the machine and printed must be the same bytes. */
  compareLog(host: Accounted, order: string, stored: readonly RunRecord[]): void {
    const folder = join(ordersFolderOf(host.machine), order)
    const kept = recordsIn(textIn(join(folder, 'records')))
    const violate = (text: string) => this.ledger.violate('SIM-8 log', `${text} of ${order} on ${host.name}: ${folder}`)
    if (!isDeepStrictEqual(kept, stored)) violate(`${stored.length} stored of ${kept.length} records`)
    const printed = readFileSync(join(folder, 'output'))
    if (!outputOf(stored).equals(printed)) violate('the lines are not the output')
    if (stored.some((record, index) => record.n !== index + 1)) violate('a gap in the records')
    const output = printed.toString('latin1').split('\n')
    for (const line of accountOf(host.machine).filter((one) => one.order === order && one.who === 'package'))
      if (output.filter((one) => one === line.text).length !== 1) violate(`"${line.text}" is not once in the output`)
  }
}

function payloadOf(entryText: string): GrantPayload {
  const entry = v.parse(inboxEntrySchema, JSON.parse(entryText))
  if (entry.type !== 'grant') throw new Error('a claim without a grant')
  return v.parse(grantPayloadSchema, JSON.parse(Buffer.from(entry.grant.payload, 'base64').toString()))
}

function recordsIn(text: string): RunRecord[] {
  const lines = text.split('\n').filter((line) => line !== '')
  return lines.map((line) => JSON.parse(line) as RunRecord)
}

/** The digest that a person is shown, worked out from the plans that they are shown. */
export function digestOf(plans: readonly { readonly machine: string; readonly planHash: string }[]): string {
  return createHash('sha256').update(digestText(plans)).digest('hex')
}
