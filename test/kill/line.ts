/**
 * One line of the site: two machines of a cluster, patched by one project after another, with kills all the while.
 * A person asks, approves, and retries what a killed wrapper has failed; whatever else stops is a violation. When a
 * project is over everything that happened goes before the judge.
 */
import type { OrderView, PlanView, RequestView } from '../../protocol/http.ts'
import type { Status } from '../../protocol/status.ts'
import type { Site } from '../demo/site.ts'
import type { Dice } from '../sim/random.ts'
import { call, isOver, machinesOf, recordsOf, until } from '../site/harness.ts'
import { aimsFor, hunt } from './hunt.ts'
import { type Judge, digestOf } from './judge.ts'
import type { Oracle } from './oracle.ts'
import type { Striker } from './strike.ts'
import type { Tally } from './tally.ts'

export type Field = {
  readonly site: Site
  readonly oracle: Oracle
  readonly tally: Tally
  readonly striker: Striker
  /** Publishes a version as a build of its own, once, and gives the build. */
  readonly publish: (number: number) => Promise<string>
  readonly isOver: () => boolean
}
export type Line = { readonly number: number; readonly dice: Dice; readonly judge: Judge }

const LOOK_MS = 200

/** One project after another until it is enough, or something was violated. */
export async function patchLine(field: Field, line: Line): Promise<void> {
  for (let project = 1; !field.isOver(); project += 1) {
    await patchOnce(field, line, project)
    field.tally.projects += 1
  }
}

async function patchOnce(field: Field, line: Line, project: number): Promise<void> {
  const { dice, judge } = line
  const build = await field.publish(project)
  const [first, ...others] = judge.machines
  if (first === undefined) throw new Error('a line without machines')
  const hunts = [
    hunt(field.striker, first, aimsFor(dice, field.tally, true)),
    ...others.map((host) => hunt(field.striker, host, aimsFor(dice, field.tally, false))),
  ]
  try {
    const change = await ask(field, line, build, hunts[0]?.planning)
    await approve(field, judge, change)
    await untilOver(field, line, change)
    await bringToJudge(field, judge, change)
  } finally {
    for (const one of hunts) await one.over()
  }
}

async function unlessDown<Value>(asked: Promise<Value>): Promise<Value | undefined> {
  try {
    return await asked
  } catch {
    // The coordinator is down at this moment, or went down before it had answered; whoever asks does so again.
    return undefined
  }
}

/** An answer, however often the coordinator is down; null when it says no. */
async function answer<Body>(field: Field, method: string, path: string, body?: unknown): Promise<Body | null> {
  return until(`an answer to ${method} ${path}`, async () => {
    const got = await unlessDown(call<Body>(field.site, method, path, body))
    if (got === undefined || got.status >= 500) return undefined
    return { body: got.status < 400 ? got.body : null }
  }).then((found) => found.body)
}

/** Asks until there is a change: a machine whose agent was just killed is out of reach, or could not plan. */
async function ask(field: Field, line: Line, build: string, planning: (() => void) | undefined): Promise<string> {
  const { judge, dice } = line
  const text = `${build} machines: ${judge.machines.map((one) => one.name).join(' ')} outage:0`
  return until(`a change for ${text}`, async () => {
    // The key makes a question whose answer was lost the same question.
    const key = dice.hex(32)
    field.oracle.write({ what: 'asked', line: line.number, text, key })
    const view = await answer<RequestView>(field, 'POST', '/requests', { text, key })
    if (view === null) return undefined
    planning?.()
    const made = await until(`the plans for ${text}`, async () => {
      const now = await answer<RequestView>(field, 'GET', `/requests/${view.request}?wait=5`)
      if (now === null) throw new Error(`request ${view.request} was answered and is gone`)
      return now.state === 'planning' || now.state === 'raising' ? undefined : now
    })
    return made.change
  })
}

async function statusOf(field: Field, change: string): Promise<Status> {
  const view = await answer<{ status: Status }>(field, 'GET', `/projects/${change}`)
  if (view === null) throw new Error(`project ${change} was shown and is gone`)
  return view.status
}

async function approve(field: Field, judge: Judge, change: string): Promise<void> {
  const shown = await answer<PlanView>(field, 'GET', `/projects/${change}/plan`)
  if (shown === null) throw new Error(`project ${change} has no plan`)
  const plans = Object.fromEntries(shown.machines.map(({ name, planHash, plan }) => [name, { planHash, plan }]))
  const { digest } = shown
  const expected = digestOf(
    judge.machines.map(({ id, name }) => ({ machine: id, planHash: plans[name]?.planHash ?? '' })),
  )
  if (digest !== expected)
    judge.ledger.violate('SIM-7 approved plan', `${change} shows plans that its digest is not of`)
  field.oracle.write({ what: 'raised', change, digest, plans })
  field.oracle.write({ what: 'approved', change, digest })
  await until(`the approval of ${change}`, async () => {
    await answer(field, 'POST', `/projects/${change}/approve`, { digest })
    return (await statusOf(field, change)).approvedBy
  })
}

async function untilOver(field: Field, line: Line, change: string): Promise<void> {
  await until(`the end of ${change}`, async () => {
    if (field.isOver() && line.judge.ledger.violations.length > 0) return true
    const status = await statusOf(field, change)
    checkStatus(line.judge, change, status)
    if (isOver(status)) return true
    if (status.stop?.kind === 'hold') await lift(field, line.judge, change, status)
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
    return undefined
  })
}

const AT_WORK = new Set(['granted', 'running', 'rebooting', 'verifying', 'unknown'])

/** What a status says must hold together by itself, at any moment. */
function checkStatus(judge: Judge, change: string, status: Status): void {
  const machines = machinesOf(status)
  const { totals } = status
  const counted = Object.values(totals).reduce((sum, count) => sum + count, 0)
  const wrong =
    counted !== machines.length ||
    machines.filter((one) => AT_WORK.has(one.state)).length > 1 ||
    totals.pass !== machines.filter((one) => one.state === 'succeeded').length
  if (wrong) judge.ledger.violate('KIL-2 status', `${change} shows ${JSON.stringify(status)}`)
}

/** The one failure that a kill explains is that of a wrapper; it is retried, as the hold says. */
async function lift(field: Field, judge: Judge, change: string, status: Status): Promise<void> {
  const { stop } = status
  const failed = machinesOf(status).find((one) => one.state === 'failed')
  const order = failed?.order ?? ''
  const isExplained = field.oracle.entries.some(
    (entry) => entry.what === 'killed' && entry.actor === 'wrapper' && entry.order === order,
  )
  if (failed === undefined || stop?.code !== 'failed' || !isExplained)
    return judge.ledger.violate('KIL-2 truth', `${change} is held by ${JSON.stringify(stop)} ${JSON.stringify(failed)}`)
  field.oracle.write({ what: 'retried', change, machine: failed.name, order })
  field.tally.retries += 1
  await until(`the retry of ${failed.name}`, async () => {
    await answer(field, 'POST', `/projects/${change}/retry`, { machine: failed.name })
    return machinesOf(await statusOf(field, change)).every((one) => one.order !== order || one.state !== 'failed')
  })
}

async function bringToJudge(field: Field, judge: Judge, change: string): Promise<void> {
  const orders = (await answer<{ orders: OrderView[] }>(field, 'GET', `/projects/${change}/orders`))?.orders ?? []
  for (const order of orders) {
    const host = judge.machines.find((one) => one.name === order.machine)
    if (host === undefined || order.endedAt === null)
      judge.ledger.violate('KIL-2 ends', `${change} is over and order ${order.order} is ${order.state}`)
    else judge.compareLog(host, order.order, await storedOf(field, order.order))
    field.tally.orders += 1
  }
  const status = await statusOf(field, change)
  if (status.state !== 'complete') judge.ledger.violate('KIL-2 ends', `${change} is ${status.state}`)
  judge.hear()
}

async function storedOf(field: Field, order: string) {
  return until(`the log of ${order}`, () => unlessDown(recordsOf(field.site, order)))
}
