/**
 * A scripted agent for scenarios: it says what a test tells it to, keeps what was sent to it, and plans by itself
 * unless it is told not to.
 */
import type { AgentFrame, CoordinatorFrame, OrderInHand } from '../../protocol/agent.ts'
import type { Refusal } from '../../protocol/errors.ts'
import type { GrantPayload, Result, RunRecord, Step } from '../../protocol/files.ts'
import type { Plan, PlanEvidence } from '../../protocol/plan.ts'
import type { AgentNews, Event, Reply } from '../../coordinator/domain/events.ts'
import type { Actor } from '../../coordinator/domain/state.ts'
import type { AgentSend } from '../../coordinator/ports.ts'
import type { Dice } from '../sim/random.ts'
import type { Time } from '../sim/time.ts'

export const START = 1_700_000_000_000
const SMITH: Actor = { kind: 'smith' }

export type Label = {
  readonly cluster?: string
  readonly region?: string
  readonly address?: string
  readonly builds?: readonly string[]
  readonly template?: boolean
}
export const ORDER_STEPS: readonly Step[] = ['claim', 'update', 'replan', 'fetch', 'pre-checks', 'latch', 'install']

export function planOf(version: string, fields: Partial<Plan> = {}): Plan {
  const sha256 = version.padEnd(64, '0').replace(/[^0-9a-f]/g, '0')
  const install = { name: 'hello', arch: 'amd64', version, from: '1.0', sha256, size: 1 }
  return {
    v: 1,
    build: 'prod',
    arch: 'amd64',
    installs: [install],
    removes: [],
    repairs: [],
    holds: [],
    rebootDue: false,
    conffiles: 'keep',
    ...fields,
  }
}
export const EMPTY_PLAN = planOf('1', { installs: [] })

export type Agent = {
  readonly name: string
  readonly id: () => string
  plan: Plan | Refusal
  evidence: PlanEvidence
  warnings: readonly string[]
  plansBySelf: boolean
  /** What it says at its next hello. */
  orders: OrderInHand[]
  fence: number
  impediment: Refusal | null
  /** Everything that was sent to it, newest last. */
  readonly got: AgentSend[]
  /** The grants that were sent to it. */
  readonly grants: () => GrantPayload[]
  bootId: string
  readonly grant: () => GrantPayload
  readonly revokes: () => string[]
  readonly queries: () => Extract<CoordinatorFrame, { t: 'plan' }>[]
  readonly connect: (fields?: { readonly counter?: number; readonly address?: string }) => Promise<Reply>
  /** The coordinator notices that it is gone. */
  readonly cut: () => Promise<void>
  readonly say: (news: AgentNews) => Promise<Reply>
  /** One record of each step, of the newest grant. */
  readonly steps: (...steps: Step[]) => Promise<Reply>
  readonly record: (fields: Record<string, unknown>) => Promise<Reply>
  readonly result: (outcome: Result['outcome'], fields?: Partial<Result>) => Promise<Reply>
  /** The whole run of the newest grant: every step, and success. */
  readonly succeed: () => Promise<void>
  /** The run up to its installation, and a failure there. */
  readonly fail: (fields?: Partial<Result>) => Promise<void>
  /** What its disk says of an order, for the next hello. */
  readonly inHand: (evidence: OrderInHand['evidence'], order?: string) => void
}

/** What an agent needs of the world around it. */
export type AgentWorld = {
  readonly time: Time
  readonly dice: Dice
  readonly submit: (actor: Actor, event: Event) => Promise<Reply>
  readonly settle: () => Promise<void>
}

export function factsOf(label: Label) {
  return {
    agentVersion: '0.1.0',
    os: 'Debian 12',
    arch: 'amd64',
    kernel: '6.1',
    apt: '2.6.1',
    cluster: label.cluster ?? null,
    region: label.region ?? null,
    rebootPending: false,
  }
}

type Speaker = {
  readonly submit: (event: Event) => Promise<Reply>
  readonly connect: (
    agent: Agent,
    label: Label,
    fields: { readonly counter?: number; readonly address?: string },
  ) => Promise<Reply>
  readonly say: (news: AgentNews) => Promise<Reply>
  readonly cut: () => Promise<void>
}

/** The connection of an agent: its session and the counter that it proves its key with. */
function createSpeaker(core: AgentWorld, name: string, id: string): Speaker {
  let session = ''
  let counter = 0
  const actor: Actor = { kind: 'machine', id, name }
  const submit = (event: Event) => core.submit(actor, event)
  return {
    submit,
    connect: async (agent, label, fields) => {
      session = core.dice.hex(32)
      counter = fields.counter ?? counter + 1
      const hello: Extract<AgentFrame, { t: 'hello' }> = {
        ...{
          t: 'hello',
          name,
          facts: factsOf(label),
          bootId: agent.bootId,
          incarnation: core.dice.hex(32),
          fence: agent.fence,
          at: core.time.now(),
        },
        ...{
          builds: [...(label.builds ?? ['prod'])],
          template: label.template ?? false,
          impediment: agent.impediment,
          orders: [...agent.orders],
        },
      }
      const address = fields.address ?? label.address ?? '10.0.0.1'
      const reply = await submit({ type: 'sessionOpened', machine: id, session, address, counter, hello })
      await core.settle()
      return reply
    },
    say: async (news) => {
      const reply = await submit({ type: 'agentNews', machine: id, session, news })
      // Called by the world itself too, which settles.
      await new Promise((resolve) => setImmediate(resolve))
      return reply
    },
    cut: async () => {
      await core.submit(SMITH, { type: 'sessionClosed', machine: id, session, reason: 'cut' })
      await core.settle()
    },
  }
}

export function createAgent(core: AgentWorld, name: string, id: string, label: Label): Agent {
  const speaker = createSpeaker(core, name, id)
  const sent = new Map<string, number>()
  const record = async (fields: readonly Record<string, unknown>[]): Promise<Reply> => {
    const { order } = agent.grant()
    const from = (sent.get(order) ?? 0) + 1
    sent.set(order, from + fields.length - 1)
    return agent.say({
      t: 'records',
      order,
      records: fields.map((one, index) => ({ n: from + index, at: core.time.now(), ...one }) as RunRecord),
    })
  }
  const agent: Agent = {
    name,
    id: () => id,
    plan: planOf('2.0', label.builds === undefined ? {} : { build: label.builds[0] ?? 'prod' }),
    evidence: { releases: [], downloadBytes: 1, installedBytesDelta: 1, madeAt: START },
    warnings: [],
    plansBySelf: true,
    orders: [],
    fence: 0,
    bootId: 'b0',
    impediment: null,
    got: [],
    grants: () => agent.got.flatMap((send) => ('grant' in send ? [send.grant] : [])),
    grant: () => must(agent.grants().at(-1), `grant of ${name}`),
    revokes: () =>
      agent.got.flatMap((send) => ('frame' in send && send.frame.t === 'revoke' ? [send.frame.order] : [])),
    queries: () => agent.got.flatMap((send) => ('frame' in send && send.frame.t === 'plan' ? [send.frame] : [])),
    connect: (fields = {}) => speaker.connect(agent, label, fields),
    cut: speaker.cut,
    say: speaker.say,
    record: (fields) => record([fields]),
    steps: (...steps) => record(steps.map((step) => ({ type: 'step', step }))),
    result: async (outcome, fields = {}) => {
      const { n: _, at: __, ...rest } = resultRecord(0, outcome, fields)
      const reply = await record([{ ...rest, ...(fields.at === undefined ? {} : { at: fields.at }) }])
      await core.settle()
      return reply
    },
    succeed: async () => {
      await agent.steps(...ORDER_STEPS, 'post-checks', 'verify')
      await agent.result('succeeded')
    },
    fail: async (fields) => {
      await agent.steps(...ORDER_STEPS)
      await agent.result('failed', { step: 'install', ...fields })
    },
    inHand: (evidence, order = agent.grant().order) => {
      const fence = agent.grants().find((one) => one.order === order)?.fence ?? 0
      agent.orders = [
        ...agent.orders.filter((one) => one.order !== order),
        { order, fence, evidence, upTo: sent.get(order) ?? 0 },
      ]
      agent.fence = Math.max(agent.fence, ...agent.orders.map((one) => one.fence))
    },
  }
  return agent
}

export function resultRecord(n: number, outcome: Result['outcome'], fields: Partial<Result> = {}): Result {
  const cause = outcome === 'failed' || outcome === 'unknown' ? 'maintainer-script' : null
  const message = outcome === 'failed' ? 'the script of hello failed' : outcome
  return {
    ...{
      n,
      at: 1,
      type: 'result',
      outcome,
      cause,
      step: 'verify',
      message,
      evidence: [],
      advice: [],
      latched: outcome !== 'void',
    },
    ...{ rebootPending: false, installed: [], outputBytes: 0, outputSha256: '0'.repeat(64) },
    ...fields,
  }
}

export function must<T>(value: T | undefined, what = 'what the test needs'): T {
  if (value === undefined) throw new Error(`there is no ${what}`)
  return value
}
