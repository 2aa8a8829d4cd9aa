/**
 * The runner as a whole: empties the inbox, takes every claimed order to its result, one after another, and is done
 * when nothing is left. `main.ts`, the tests and a simulator call this with their ports.
 */
import { codeOf } from '../disk/disk.ts'
import { makeStateFolders } from '../disk/grant-key.ts'
import { layoutOf, orderLayoutOf } from '../disk/layout.ts'
import { evidenceOf, knownOrders, lastRecord, readFate } from '../disk/order-state.ts'
import type { AgentConfig } from '../config.ts'
import { endVoid, ORDERS_MAX, sweepInbox } from './inbox.ts'
import { visible } from '../apt/diagnosis.ts'
import type { Programs, RunnerContext, RunnerPorts } from './ports.ts'
import { runOrder } from './run.ts'
import { restoreShutdownLimit } from './shutdown.ts'

export type Runner = { readonly start: () => void }

/** `idle` is called once, when the inbox is empty and every order has its result. */
export function createRunner(ports: RunnerPorts, config: AgentConfig, programs: Programs, idle: () => void): Runner {
  const layout = layoutOf(config.stateDir)
  const context: RunnerContext = { ports, config, layout, tell: createTeller(ports, config) }
  const next = (): void => {
    sweepInbox(context)
    const order = unfinishedOrder(context)
    if (order === null) {
      pruneOrders(context)
      return restoreShutdownLimit(context, idle)
    }
    runOrder(context, programs, order, next)
  }
  return {
    start: () => {
      makeStateFolders(ports.disk, layout)
      for (const order of knownOrders(ports.disk, layout)) endVoid(context, order)
      next()
    },
  }
}

/** The claimed order of the lowest fence that has no result yet. */
function unfinishedOrder(context: RunnerContext): string | null {
  const { disk } = context.ports
  const open = knownOrders(disk, context.layout).flatMap((order) => {
    const fate = readFate(disk, orderLayoutOf(context.layout, order))
    const evidence = evidenceOf(disk, context.layout, order)
    return fate?.fate === 'claim' && evidence !== 'ended' ? [{ order, fence: fate.fence }] : []
  })
  return open.toSorted((a, b) => a.fence - b.fence)[0]?.order ?? null
}

/** No grant can be claimed so long after it was issued. */
const CROWDED_KEEP_MS = 3_600_000

/**
 * Orders whose result is older than `limits.keep` go; so do void ones that stand in the way of new ones. Their grants
 * expired long ago, so none can be replayed.
 */
function pruneOrders(context: RunnerContext): void {
  const { disk, now } = context.ports
  const { keepMs } = context.config.limits
  const orders = knownOrders(disk, context.layout)
  const voidKeepMs = orders.length < ORDERS_MAX ? keepMs : Math.min(keepMs, CROWDED_KEEP_MS)
  for (const order of orders) {
    const files = orderLayoutOf(context.layout, order)
    const fate = readFate(disk, files)
    if (fate === null || now() - fate.at < (fate.fate === 'void' ? voidKeepMs : keepMs)) continue
    if (lastRecord(disk, files)?.type === 'result') disk.remove(files.folder)
  }
}

/** One line per event and per line of output, for whoever logs in: time, order, step, text. */
function createTeller(ports: RunnerPorts, config: AgentConfig): RunnerContext['tell'] {
  let isBroken = false
  return (order, step, text) => {
    try {
      ports.disk.write(
        config.logFile,
        Buffer.from(`${new Date(ports.now()).toISOString()} ${order} ${step} ${visible(text)}\n`),
        'append',
        0o644,
      )
      isBroken = false
    } catch (error) {
      if (codeOf(error) === '') throw error
      // The records are the truth; a full /opt must not stop a run. Said once.
      if (!isBroken) process.stderr.write(`smith: ${config.logFile} can't be written: ${codeOf(error)}\n`)
      isBroken = true
    }
  }
}
