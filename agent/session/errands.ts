/**
 * What the coordinator asks the agent to work out: plans, and downloads for waiting orders. One of each kind at a
 * time, the rest in a bounded queue; an answer that could not be sent is kept for the question's repetition, since
 * the coordinator asks again after each hello. Used by agent.ts.
 */
import type { AgentFrame, CoordinatorFrame } from '../../protocol/agent.ts'
import type { AgentPorts, Cancel, PlanAnswer } from '../ports.ts'

const QUEUE_MAX = 16
const WARNINGS_MAX = 50
const TEXT_CHARACTERS_MAX = 2000
const MESSAGE_CHARACTERS_MAX = 4096

type Query = Extract<CoordinatorFrame, { t: 'plan' }>
type Offer = Extract<CoordinatorFrame, { t: 'offer' }>

export type Errands = {
  readonly onPlan: (query: Query) => void
  readonly onOffer: (offer: Offer) => void
  /** The order is granted, revoked or over: nothing more is to be downloaded for it. */
  readonly endOffer: (order: string) => void
}

/** One kind of errand: `key` names one, `begin` does it and calls back with the frame that answers it. */
type Line<Item> = {
  readonly keyOf: (item: Item) => string
  readonly begin: (item: Item, done: (answer: AgentFrame) => void) => Cancel
  readonly refuse: (item: Item) => AgentFrame
  readonly send: (frame: AgentFrame) => void
  queue: Item[]
  current: { readonly key: string; readonly cancel: Cancel } | null
  /** The last answer, for a question that comes again. */
  answered: { readonly key: string; readonly frame: AgentFrame } | null
}

export function createErrands(
  ports: Pick<AgentPorts, 'plan' | 'prefetch' | 'log'>,
  send: (frame: AgentFrame) => void,
  clockAheadMs: () => number | null,
): Errands {
  const plans: Line<Query> = {
    keyOf: (query) => query.query,
    begin: (query, done) =>
      ports.plan({ build: query.build, outageMinutes: query.outageMinutes, clockAheadMs: clockAheadMs() }, (answer) =>
        done(planFrame(query.query, answer)),
      ),
    refuse: (query) => ({
      t: 'planRefused',
      query: query.query,
      refusal: {
        kind: 'too-many',
        message: `${QUEUE_MAX} plans are asked for already`,
        remedy: 'Ask again when they are made.',
      },
    }),
    send,
    queue: [],
    current: null,
    answered: null,
  }
  const downloads: Line<Offer> = {
    keyOf: (offer) => offer.order,
    begin: (offer, done) =>
      ports.prefetch({ order: offer.order, plan: offer.plan }, (problem) => {
        if (problem !== null)
          ports.log.warn(
            { order: offer.order, problem },
            'the download for a waiting order failed; the run will download itself',
          )
        done({
          t: 'prefetched',
          order: offer.order,
          problem: problem === null ? null : problem.slice(0, TEXT_CHARACTERS_MAX),
        })
      }),
    refuse: (offer) => ({ t: 'prefetched', order: offer.order, problem: `${QUEUE_MAX} downloads are waiting already` }),
    send,
    queue: [],
    current: null,
    answered: null,
  }
  return {
    onPlan: (query) => add(plans, query),
    onOffer: (offer) => add(downloads, offer),
    endOffer: (order) => {
      downloads.queue = downloads.queue.filter((offer) => offer.order !== order)
      if (downloads.current?.key !== order) return
      downloads.current.cancel()
      downloads.current = null
      next(downloads)
    },
  }
}

function add<Item>(line: Line<Item>, item: Item): void {
  const key = line.keyOf(item)
  if (line.answered?.key === key) line.send(line.answered.frame)
  else if (line.current?.key === key || line.queue.some((one) => line.keyOf(one) === key)) return
  else if (line.queue.length >= QUEUE_MAX) line.send(line.refuse(item))
  else {
    line.queue.push(item)
    next(line)
  }
}

function next<Item>(line: Line<Item>): void {
  if (line.current !== null) return
  const item = line.queue.shift()
  if (item === undefined) return
  const key = line.keyOf(item)
  const mine = { key, cancel: (): void => {} }
  line.current = mine
  mine.cancel = line.begin(item, (frame) => {
    // Cancelled, and it answered all the same.
    if (line.current !== mine) return
    line.current = null
    line.answered = { key, frame }
    line.send(frame)
    next(line)
  })
}

function planFrame(query: string, answer: PlanAnswer): AgentFrame {
  if ('refusal' in answer) {
    const { kind, message, subject, remedy } = answer.refusal
    const cut = (text: string) => text.slice(0, MESSAGE_CHARACTERS_MAX)
    return {
      t: 'planRefused',
      query,
      refusal: {
        kind,
        message: cut(message),
        ...(subject === undefined ? {} : { subject: cut(subject) }),
        remedy: cut(remedy),
      },
    }
  }
  const warnings = answer.warnings.slice(0, WARNINGS_MAX).map((text) => text.slice(0, TEXT_CHARACTERS_MAX))
  return { t: 'planned', query, plan: answer.plan, evidence: answer.evidence, warnings }
}
