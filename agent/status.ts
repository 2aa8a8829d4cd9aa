/**
 * `smith-agent status`: what the machine's own files say of enrolment, connection and orders, also when the agent is
 * dead. Reads only; asks nobody.
 */
import { join } from 'node:path'
import * as v from 'valibot'
import type { Refusal } from '../protocol/errors.ts'
import { readAgentConfig } from './config.ts'
import { createRealDisk, readIfExists } from './disk/disk.ts'
import { type Layout, layoutOf, orderLayoutOf } from './disk/layout.ts'
import { findImpediment } from './facts.ts'
import { readStoredIdentity } from './identity.ts'
import { evidenceOf, lastRecord } from './disk/order-state.ts'
import { fenceOf, isForgotten, ordersOnDisk } from './session/evidence.ts'

const connectionSchema = v.object({
  phase: v.picklist(['open', 'waiting']),
  problem: v.nullable(v.string()),
  since: v.number(),
  pid: v.number(),
})

export type AgentStatus = {
  readonly enrolled: boolean
  readonly name: string | null
  readonly machine: string | null
  readonly instance: string | null
  /** Null when neither the configuration nor an enrolment names one. */
  readonly coordinator: string | null
  readonly connection: {
    readonly state: 'connected' | 'not connected' | 'agent not running'
    readonly since: number | null
    readonly problem: string | null
  }
  /** Why it could take no order now. */
  readonly impediment: Refusal | null
  readonly orders: readonly {
    readonly order: string
    readonly fence: number
    readonly evidence: string
    readonly records: number
    readonly shipped: boolean
  }[]
}

export function readStatus(configFile: string): AgentStatus {
  const config = readAgentConfig(configFile)
  const disk = createRealDisk()
  const layout = layoutOf(config.stateDir)
  const stored = readStoredIdentity(disk, layout)
  const orders = [...ordersOnDisk(disk, layout)].toSorted().map((order) => {
    const records = lastRecord(disk, orderLayoutOf(layout, order))?.n ?? 0
    const evidence = evidenceOf(disk, layout, order) ?? 'none'
    return { order, fence: fenceOf(disk, layout, order), evidence, records, shipped: isForgotten(disk, layout, order) }
  })
  return {
    enrolled: stored !== null,
    name: stored?.name ?? null,
    machine: stored?.machine ?? null,
    instance: stored?.instance ?? null,
    coordinator: config.coordinator ?? stored?.coordinator ?? null,
    connection: connectionOf(layout),
    impediment: stored === null ? null : findImpediment(config, disk),
    orders,
  }
}

function connectionOf(layout: Layout): AgentStatus['connection'] {
  const told = readConnection(layout)
  if (told === null) return { state: 'agent not running', since: null, problem: null }
  const { phase, since, problem } = told
  return { state: phase === 'open' ? 'connected' : 'not connected', since, problem }
}

/** What the running agent wrote of its connection. */
function readConnection(layout: Layout): v.InferOutput<typeof connectionSchema> | null {
  const bytes = readIfExists(createRealDisk(), join(layout.agent, 'connection.json'), 65_536)
  const parsed = v.safeParse(connectionSchema, bytes === null ? null : JSON.parse(bytes.toString('utf8')))
  return parsed.success && isAlive(parsed.output.pid) ? parsed.output : null
}

/** The process of the agent, or null when none runs. */
export function agentProcess(layout: Layout): number | null {
  return readConnection(layout)?.pid ?? null
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // EPERM: it is there, and someone else's.
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}

export function statusText(status: AgentStatus): string {
  const lines = [
    status.enrolled
      ? `Machine:     ${status.name} (${status.machine}), instance ${status.instance}`
      : 'Machine:     not enrolled',
    `Coordinator: ${status.coordinator ?? 'none'}, ${status.connection.state}${status.connection.since === null ? '' : ` since ${new Date(status.connection.since).toISOString()}`}`,
  ]
  if (status.connection.problem !== null) lines.push(`Problem:     ${status.connection.problem}`)
  if (status.impediment !== null) {
    lines.push(`Not ready:   ${status.impediment.message}`, `        do:  ${status.impediment.remedy}`)
  }
  lines.push(status.orders.length === 0 ? 'Orders:      NONE' : 'Orders:')
  for (const one of status.orders) {
    lines.push(
      `  ${one.order} fence ${one.fence}: ${one.evidence}, ${one.records} records${one.shipped ? ', shipped' : ''}`,
    )
  }
  return `${lines.join('\n')}\n`
}
