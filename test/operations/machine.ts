/**
 * A machine whose agent a test speaks for, on a real connection to a real coordinator: it enrols, proves its key,
 * plans at once, takes grants, and connects again when the coordinator ends its connection.
 */
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import { WebSocket } from 'ws'
import type { AgentNews } from '../../coordinator/domain/events.ts'
import {
  AGENT_SUBPROTOCOL,
  type AgentFrame,
  type CoordinatorFrame,
  type Facts,
  type OrderInHand,
  authText,
} from '../../protocol/agent.ts'
import type { GrantPayload } from '../../protocol/files.ts'
import type { Plan } from '../../protocol/plan.ts'
import type { MachineReport } from '../../protocol/report.ts'
import { factsOf } from '../api/world.ts'
import { planOf } from '../coordinator/harness.ts'

type Challenge = Extract<CoordinatorFrame, { t: 'challenge' }>
export type Place = { readonly port: number; readonly now: () => number }
export type Enrol = (body: { readonly publicKey: string; readonly facts: Facts }) => Promise<{ machine: string }>
/** An order that it was granted, and how far it has come. */
type InHand = { readonly order: string; readonly fence: number; upTo: number; isEnded: boolean }

const AGAIN_MS = 100
const EVIDENCE = { releases: [], downloadBytes: 1, installedBytesDelta: 1, madeAt: 1 }

export class ScriptedMachine {
  readonly name: string
  readonly grants: InHand[] = []
  /** What it would do now. */
  plan: Plan = planOf('2.0')
  /** What its root half makes when it is asked; null when it makes none. */
  report: MachineReport | null = null
  /** Why it makes none. */
  reportProblem = 'there is none'
  /** Its copy has the same key, and its own boot. */
  bootId: string
  readonly facts: Facts
  #place: () => Place
  readonly #key = generateKeyPairSync('ed25519')
  #id = ''
  #counter = 0
  #socket: WebSocket | null = null
  #isWanted = false

  constructor(name: string, place: () => Place, facts: Partial<Facts> = {}) {
    this.name = name
    this.bootId = randomBytes(8).toString('hex')
    this.facts = { ...factsOf(), ...facts }
    this.#place = place
  }

  get id(): string {
    return this.#id
  }

  async enrol(ask: Enrol): Promise<void> {
    const publicKey = this.#key.publicKey.export({ type: 'spki', format: 'der' }).toString('base64')
    this.#id = (await ask({ publicKey, facts: this.facts })).machine
  }

  /** From now on it is connected, as far as the coordinator lets it. */
  connect(): void {
    this.#isWanted = true
    this.#open()
  }

  /** Its network or its power is gone. */
  leave(): void {
    this.#isWanted = false
    this.#socket?.terminate()
    this.#socket = null
  }

  /** The disk with its key is put back as it was `connections` ago, as from an image. */
  goBack(connections: number): void {
    this.#counter -= connections
  }

  /** Another coordinator answers now for the one that it enrolled with. */
  moveTo(place: Place): void {
    this.#place = () => place
  }

  say(news: AgentNews): Promise<void> {
    if (news.t === 'records') {
      const inHand = this.grants.find((one) => one.order === news.order)
      const last = news.records.at(-1)
      if (inHand !== undefined && last !== undefined)
        Object.assign(inHand, { upTo: last.n, isEnded: last.type === 'result' })
    }
    this.#send(news)
    return Promise.resolve()
  }

  #open(): void {
    const socket = new WebSocket(`wss://127.0.0.1:${this.#place().port}/agent`, [AGENT_SUBPROTOCOL], {
      rejectUnauthorized: false,
      perMessageDeflate: false,
    })
    this.#socket = socket
    socket.on('message', (data) => {
      if (this.#socket === socket) this.#take(JSON.parse((data as Buffer).toString()) as CoordinatorFrame)
    })
    // Whatever ends a connection is followed by its close, where it is made anew.
    socket.on('error', () => socket.terminate())
    socket.on('close', () => {
      if (this.#isWanted && this.#socket === socket)
        setTimeout(() => this.#isWanted && this.#socket === socket && this.#open(), AGAIN_MS)
    })
  }

  #send(frame: AgentFrame): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame))
  }

  #take(frame: CoordinatorFrame): void {
    switch (frame.t) {
      case 'challenge':
        return this.#prove(frame)
      case 'ready':
        return this.#hello()
      case 'plan':
        return this.#send({ t: 'planned', query: frame.query, plan: this.plan, evidence: EVIDENCE, warnings: [] })
      case 'offer':
        return this.#send({ t: 'prefetched', order: frame.order, problem: null })
      case 'grant':
        return this.#granted(frame)
      case 'report':
        return this.#reported(frame.report)
      case 'ping':
        return this.#send({ t: 'pong', n: frame.n })
      default:
        return undefined
    }
  }

  #prove({ nonce: coordinatorNonce, incarnation }: Challenge): void {
    const nonce = randomBytes(32).toString('hex')
    const counter = (this.#counter += 1)
    const machine = this.#id
    const text = authText({ coordinatorNonce, agentNonce: nonce, machine, incarnation, counter })
    const signature = sign(null, Buffer.from(text), this.#key.privateKey).toString('base64')
    this.#send({ t: 'auth', machine, nonce, counter, signature })
  }

  #hello(): void {
    const orders = this.grants
      .filter((one) => !one.isEnded)
      .map(({ order, fence, upTo }): OrderInHand => ({ order, fence, evidence: 'latched', upTo }))
    this.#send({
      ...{ t: 'hello', name: this.name, facts: this.facts, bootId: this.bootId },
      ...{ incarnation: randomBytes(16).toString('hex'), at: this.#place().now() },
      ...{ fence: Math.max(0, ...this.grants.map((one) => one.fence)), builds: ['prod'], template: false },
      ...{ impediment: null, orders },
    })
  }

  #granted({ order, grant }: Extract<CoordinatorFrame, { t: 'grant' }>): void {
    const { fence } = JSON.parse(Buffer.from(grant.payload, 'base64').toString()) as GrantPayload
    if (!this.grants.some((one) => one.order === order)) this.grants.push({ order, fence, upTo: 0, isEnded: false })
    this.#send({ t: 'granted', order, fence })
  }

  #reported(report: string): void {
    if (this.report === null) return this.#send({ t: 'reportRefused', report, problem: this.reportProblem })
    const base64 = gzipSync(JSON.stringify(this.report)).toString('base64')
    return this.#send({ t: 'reportPart', report, part: 0, of: 1, base64 })
  }
}
