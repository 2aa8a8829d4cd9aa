/**
 * The bot: joins the connection to Slack, the conversations, the messages and the followers of the instances. Made by
 * the composition when `[chat]` is configured. It is a client among others: nothing in the coordinator waits for it,
 * and whatever Slack does, runs go on. Its troubles are told in the log and in `smith status`.
 */
import { unreachable } from '../../protocol/errors.ts'
import { wait } from '../client/target.ts'
import { type Clicks, createClicks } from './clicks.ts'
import { contentOf } from './files.ts'
import { createInstances, timersOf } from './instances.ts'
import { type FileSource, type Messages, createMessages } from './messages.ts'
import { CHAT_TIMES, type ChatPorts, type ChatTimes, type Self, type Slack, type SlackProblem } from './ports.ts'
import { type Projects, createProjects } from './projects.ts'
import { createSlack } from './slack.ts'
import { type Socket, createSocket } from './socket.ts'
import { type Talks, createTalks } from './talks.ts'
import { readEnvelope } from './envelopes.ts'

export type Chat = {
  readonly start: () => void
  readonly stop: () => Promise<void>
  /** What is amiss now, a line each; empty when all is well. */
  readonly troubles: () => readonly string[]
  readonly messages: Messages
}

const STOP_MS_MAX = 2000
const KEPT_MS = 30 * 86_400_000

export function createChat(ports: ChatPorts): Chat {
  const { config, ledger, clock, log } = ports
  const times = { ...CHAT_TIMES, ...ports.times }
  const ending = new AbortController()
  const { note, troubles } = createTroubles(log)
  const instances = createInstances(ports, times.call)
  const timers = timersOf(ports)
  const slack = createSlack({
    apiUrl: config.apiUrl,
    timeoutMs: times.call,
    log,
    token: () => ports.readSecret(config.botTokenFile),
  })
  const bytesOf = (source: FileSource) => contentOf(source, instances)
  const messages = createMessages({
    ...{ ledger, slack, clock, log, times, bytesOf },
    onProblem: (problem, what) => note('Slack (posting)', problemText(problem, what)),
    onDone: () => note('Slack (posting)', null),
  })
  const newId = () => Buffer.from(ports.random.bytes(16)).toString('hex')
  const common = { config, instances, ledger, messages, timers, log, times, signal: ending.signal }
  const talks = createTalks({
    ...common,
    now: clock.wallNow,
    newId,
    sha256: ports.sha256,
    onRaised: (told) => projects.touch(told.instance, told.change),
  })
  const projects: Projects = createProjects({
    ...common,
    offers: { ledger, messages },
    onReach: (name, problem) => note(`smith instance in ${name}`, problem),
  })
  const clicks = createClicks({ config, ledger, messages, talks, slack, instances, now: clock.wallNow, log })
  const socket = listenTo({ ...ports, times }, slack, { talks, clicks, note })
  let following: Promise<void> = Promise.resolve()
  return {
    messages,
    start: () => {
      const over = outdated(ledger, clock.wallNow() - KEPT_MS)
      if (over.length > 0) ledger.put(over)
      messages.start()
      talks.start()
      clicks.start()
      following = projects
        .start()
        .catch((error: unknown) => log.error({ err: error }, 'the feeds are not followed any more'))
      socket.start()
    },
    stop: async () => {
      ending.abort()
      // What is in flight may take as long as a call; what it does not note now is looked for at the next start.
      const ended = Promise.all([socket.stop(), messages.stop(), talks.stop(), following])
      await Promise.race([ended, wait(timers, STOP_MS_MAX)])
    },
    troubles,
  }
}

type Note = (what: string, problem: string | null) => void

/** What Slack delivers, handed to whom it concerns. */
function listenTo(
  ports: ChatPorts & { readonly times: ChatTimes },
  slack: Slack,
  to: { readonly talks: Talks; readonly clicks: Clicks; readonly note: Note },
): Socket {
  const { config, clock, log, times } = ports
  let self: Self | null = null
  return createSocket({
    apiUrl: config.apiUrl,
    appToken: () => ports.readSecret(config.appTokenFile),
    ...{ clock, log, times },
    // Who it is itself the bot must know before it hears anybody, or it could talk with itself.
    beforeOpen: async () => {
      self = await slack.whoAmI()
    },
    onEnvelope: (envelope) => {
      const heard = readEnvelope(envelope, self)
      if (heard === null) return
      if (heard.kind === 'message') to.talks.hear(heard)
      else if (heard.kind === 'edit') to.talks.hearEdit(heard)
      else if (heard.kind === 'click') to.clicks.take(heard)
      else to.note('Slack (connection)', 'Slack limits the events of this app; some messages may not have arrived')
    },
    onState: (problem) => to.note('Slack (connection)', problem),
  })
}

function createTroubles(log: ChatPorts['log']) {
  const known = new Map<string, string>()
  return {
    troubles: () => [...known].map(([what, problem]) => `${what}: ${problem}`),
    note: (what: string, problem: string | null) => {
      if ((known.get(what) ?? null) === problem) return
      if (problem === null) {
        known.delete(what)
        log.info({ what }, 'chat is well again')
      } else {
        known.set(what, problem)
        log.warn({ what, problem }, 'chat is in trouble')
      }
    },
  }
}

function problemText(problem: SlackProblem, what: string): string | null {
  switch (problem.kind) {
    case 'later':
      return null
    case 'unsure':
      return 'Slack does not answer; messages wait'
    case 'revoked':
      return 'the bot token is not accepted; messages wait. Put a good one into the file of bot_token_file'
    case 'refused':
      return `Slack refused a message (${problem.code}; ${what})`
    default:
      return unreachable(problem)
  }
}

/** What is over for a month: talks, offers, and messages that nobody edits any more. */
function outdated(ledger: ChatPorts['ledger'], before: number): (readonly [string, null])[] {
  const old = (prefix: string, field: string) =>
    ledger.list(prefix).filter(({ doc }) => {
      const at = (doc as Record<string, unknown>)[field]
      return typeof at === 'number' && at < before
    })
  const gone = [
    ...old('talk/', 'at').filter(({ doc }) => (doc as { state?: unknown }).state !== 'open'),
    ...old('message/', 'madeAt').filter(
      ({ doc }) => (doc as { lost?: unknown; ts?: unknown }).lost !== null || (doc as { ts?: unknown }).ts !== null,
    ),
    ...old('own/', 'at'),
    ...old('run/', 'grantedAt'),
  ]
  return gone.map(({ key }) => [key, null] as const)
}
