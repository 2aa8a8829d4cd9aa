/**
 * Where everything lies under `state_dir`, and who may write it: `agent/` and `inbox/` belong to the unprivileged
 * half, `run/` to the runner (root; the group may read). Both halves take every path from here, and ids in paths
 * have passed `idSchema`, so none can leave its folder.
 */
import { join } from 'node:path'
import { ID_PATTERN } from '../../protocol/ids.ts'

/** Folders and files of a machine, apart from those of single orders. */
export type Layout = {
  readonly state: string
  /** 0700, the agent's own: identity, sessions, planning lists. */
  readonly agent: string
  readonly agentPlanning: string
  /** What waiting orders downloaded, one folder an order. The runner copies and hashes before it believes any. */
  readonly prefetch: string
  /** Written by the agent, emptied by the runner. */
  readonly inbox: string
  /** All below is the runner's. */
  readonly run: string
  readonly grantKey: string
  readonly fence: string
  readonly taken: string
  readonly refused: string
  readonly orders: string
  readonly runnerLock: string
  /** Written by the agent: up to which record the coordinator has an order that is about to reboot, one file an order. */
  readonly acked: string
  /** Written by the agent, emptied by the collector: each name is the id of a health report that is wanted. */
  readonly asks: string
  /** The health reports, by id, for the agent to carry away. The collector's, and so root's. */
  readonly reports: string
  /** When this machine was last changed by a run, and for which change. */
  readonly lastRun: string
}

export function layoutOf(stateDir: string): Layout {
  const run = join(stateDir, 'run')
  const agent = join(stateDir, 'agent')
  return {
    state: stateDir,
    agent,
    agentPlanning: join(agent, 'planning'),
    prefetch: join(agent, 'prefetch'),
    inbox: join(stateDir, 'inbox'),
    run,
    grantKey: join(run, 'grant-key.json'),
    fence: join(run, 'fence'),
    taken: join(run, 'taken'),
    refused: join(run, 'refused'),
    orders: join(run, 'orders'),
    runnerLock: join(run, 'runner.lock'),
    acked: join(agent, 'acked'),
    asks: join(stateDir, 'asks'),
    reports: join(run, 'reports'),
    lastRun: join(run, 'last-run.json'),
  }
}

/** The files of one order. */
export type OrderLayout = {
  readonly folder: string
  readonly grant: string
  readonly plan: string
  /** ONE name for claim and void, so that the one excludes the other. */
  readonly fate: string
  readonly latch: string
  /** Raw bytes of everything printed, all steps, appended only: the truth that records are cut from. */
  readonly output: string
  /** NDJSON of RunRecord. */
  readonly records: string
  readonly exit: string
  readonly lock: string
  /** What the wrapper is to start, written before it is. */
  readonly command: string
  /** Where `APT::Status-Fd` goes. */
  readonly status: string
  /** The number of the try, before the latch, that is at work: a wrapper of an older one must not begin. */
  readonly tries: string
  /** The boot in which the run was last at work. */
  readonly boot: string
  /** What the wrapper itself has to complain of. */
  readonly wrapperLog: string
  /** apt's folders of this order: sources, lists, cache with archives. */
  readonly apt: string
  /** Package states right before the latch, for the comparison afterwards. */
  readonly before: string
  /** The machine's health right before the latch. */
  readonly health: string
  /** The boot in which the reboot of this run was decided; there is never a second one. */
  readonly reboot: string
}

export function orderLayoutOf(layout: Layout, order: string): OrderLayout {
  if (!ID_PATTERN.test(order)) throw new Error(`${JSON.stringify(order)} is no order id`)
  return orderFilesOf(join(layout.orders, order))
}

/** The same from the order's folder, for the programs that are started with it (wrapper, hook). */
export function orderFilesOf(folder: string): OrderLayout {
  return {
    folder,
    grant: `${folder}/grant.json`,
    plan: `${folder}/plan.json`,
    fate: `${folder}/fate`,
    latch: `${folder}/latch`,
    output: `${folder}/output`,
    records: `${folder}/records`,
    exit: `${folder}/exit.json`,
    lock: `${folder}/lock`,
    command: `${folder}/command.json`,
    status: `${folder}/status`,
    tries: `${folder}/try`,
    boot: `${folder}/boot`,
    wrapperLog: `${folder}/wrapper.log`,
    apt: `${folder}/apt`,
    before: `${folder}/before.json`,
    health: `${folder}/health.json`,
    reboot: `${folder}/reboot.json`,
  }
}

export function grantEntryName(order: string): string {
  return `grant-${order}.json`
}

export function revokeEntryName(order: string): string {
  return `revoke-${order}.json`
}
