/**
 * The bot for its tests: the real bot with Slack's own libraries against the stand-in, and one or more real
 * coordinators (test/api/world.ts) that it reaches over TLS. A life of the bot can be cut off at any write to its
 * ledger, and another one begun with what was on disk then.
 */
import { randomBytes } from 'node:crypto'
import type { Test } from 'tap'
import { type Chat, createChat } from '../../coordinator/chat/chat.ts'
import type { ChatConfig, ChatTimes } from '../../coordinator/chat/ports.ts'
import type { Ledger, Log } from '../../coordinator/ports.ts'
import { createMemoryStore } from '../../coordinator/store/memory.ts'
import type { RunRecord } from '../../protocol/files.ts'
import { PEOPLE, type World, type WorldOptions, createWorld, random, realClock, sha256 } from '../api/world.ts'
import { type Posted, StandIn } from './standin.ts'

export const USERS = { U0ANA: 'ana', U0BO: 'bo', U0CY: 'cy', U0VI: 'vi', U0GONE: 'gone' }
const WAIT_MS_MAX = 60_000
/** Nothing in a test waits for Slack's own limits but those that are about them. */
export const QUICK: ChatTimes = {
  postGap: 1,
  editGap: 10,
  unsure: 20,
  reconnect: 20,
  reconnectMax: 40,
  revoked: 50,
  call: 5000,
}

export type ChatWorldOptions = {
  readonly instances?: readonly string[]
  readonly config?: Partial<ChatConfig>
  readonly times?: Partial<ChatTimes>
  readonly world?: WorldOptions
  readonly startsLater?: boolean
}
export type Life = {
  readonly chat: Chat
  readonly botToken: string
  readonly appToken: string
  readonly kill: () => void
}
export type ChatWorld = {
  readonly slack: StandIn
  readonly worlds: Readonly<Record<string, World>>
  readonly world: World
  readonly ledger: Ledger
  readonly secrets: Map<string, string>
  readonly logged: { readonly fields: object; readonly message: string }[]
  life: Life
  /** A life that is killed when it writes to the ledger for this many times (from 1). */
  readonly live: (dieAt?: number) => Life
  readonly puts: () => number
  readonly until: (what: string, test: () => boolean) => Promise<void>
  /** The first message in a channel whose text matches, waited for. */
  readonly message: (channel: string, pattern: RegExp) => Promise<Posted>
  readonly quiet: () => Promise<void>
}

export async function createChatWorld(t: Test, options: ChatWorldOptions = {}): Promise<ChatWorld> {
  const slack = await StandIn.start()
  const names = options.instances ?? ['prod']
  const worlds: Record<string, World> = {}
  for (const name of names) worlds[name] = await createWorld(t, { people: { ...PEOPLE }, ...options.world })
  const store = createMemoryStore(random)
  const secrets = new Map<string, string>()
  for (const name of names) secrets.set(`/${name}`, worlds[name]?.tokens['igorina'] ?? '')
  const logged: { fields: object; message: string }[] = []
  const config: ChatConfig = {
    ...{ name: 'igorina', apiUrl: slack.apiUrl, appTokenFile: '/app', botTokenFile: '/bot', logChannel: 'C0LOG' },
    ...{ confirmAbove: 3, people: USERS },
    instances: names.map((name) => {
      const pin = worlds[name]?.ports.pin ?? ''
      return { name, host: '127.0.0.1', port: worlds[name]?.port ?? 0, pin, tokenFile: `/${name}` }
    }),
    ...options.config,
  }
  const { live, lives, puts } = livesOf({ config, slack, secrets, logged, ledger: store.ledger, times: options.times })
  t.teardown(async () => {
    await Promise.all(lives.map((life) => life.chat.stop()))
    await slack.close()
  })
  const until = async (what: string, test: () => boolean) => {
    const end = Date.now() + WAIT_MS_MAX
    while (!test()) {
      if (Date.now() > end) throw new Error(`${what} never came; Slack has:\n${slack.posted.map(shownOf).join('\n')}`)
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
  const chatWorld: ChatWorld = {
    ...{ slack, worlds, world: worlds[names[0] ?? ''] as World, ledger: store.ledger, secrets, logged },
    life: undefined as never,
    live,
    puts,
    until,
    message: async (channel, pattern) => {
      await until(`${pattern} in ${channel}`, () => slack.in(channel).some((one) => pattern.test(one.text)))
      return slack.in(channel).find((one) => pattern.test(one.text)) as Posted
    },
    quiet: async () => {
      await chatWorld.life.chat.messages.settled()
    },
  }
  if (options.startsLater !== true) {
    chatWorld.life = live()
    await until('a connection', () => slack.sockets.size > 0)
  }
  return chatWorld
}

/** Lives of one bot, each with tokens of its own, so that what a dead one still tries is refused. */
function livesOf(given: {
  readonly config: ChatConfig
  readonly slack: StandIn
  readonly secrets: ReadonlyMap<string, string>
  readonly logged: { fields: object; message: string }[]
  readonly ledger: Ledger
  readonly times: Partial<ChatTimes> | undefined
}) {
  const { config, slack, secrets, logged, ledger, times } = given
  const lives: Life[] = []
  let puts = 0
  const live = (dieAt = Number.POSITIVE_INFINITY): Life => {
    puts = 0
    const botToken = `xoxb-${randomBytes(8).toString('hex')}`
    const appToken = `xapp-${randomBytes(8).toString('hex')}`
    let isDead = false
    const life: Life = {
      botToken,
      appToken,
      kill: () => {
        if (isDead) return
        isDead = true
        // What is dead says nothing any more, and its connections break.
        slack.badTokens.add(botToken)
        slack.badTokens.add(appToken)
        for (const socket of slack.sockets) socket.terminate()
        void life.chat.stop()
      },
      chat: createChat({
        config,
        ledger: {
          get: ledger.get,
          list: ledger.list,
          put: (entries) => {
            if (isDead) throw new Error('this life is over')
            puts += 1
            if (puts >= dieAt) {
              life.kill()
              throw new Error('killed before this was on disk')
            }
            ledger.put(entries)
          },
        },
        clock: realClock,
        random,
        log: logOf(logged),
        sha256,
        readSecret: (path) => {
          const secret = { '/bot': botToken, '/app': appToken }[path]
          const found = secrets.get(path) ?? secret
          if (found === undefined || isDead) throw new Error(`no secret ${path}`)
          return found
        },
        times: { ...QUICK, ...times },
      }),
    }
    lives.push(life)
    life.chat.start()
    return life
  }
  return { live, lives, puts: () => puts }
}

const shownOf = (message: Posted) =>
  `  ${message.channel} ${message.thread ?? ''} ${message.text || message.file?.title}`

function logOf(logged: { fields: object; message: string }[]): Log {
  const note = (fields: object, message: string) => void logged.push({ fields, message })
  return { debug: note, info: note, warn: note, error: note }
}

type Machine = Awaited<ReturnType<World['machine']>>

/** The machine's run, as its agent ships it: steps, some lines, a result. */
export async function runOf(machine: Machine, outcome: 'succeeded' | 'failed', order?: string): Promise<void> {
  const id = order ?? machine.grants.at(-1)?.order ?? ''
  const at = Date.now()
  const records: RunRecord[] = [
    { type: 'step', n: 1, at, step: 'claim' },
    { type: 'step', n: 2, at, step: 'latch' },
    { type: 'step', n: 3, at, step: 'install' },
    { type: 'line', n: 4, at, step: 'install', offset: 0, text: 'Unpacking demo (2.0) over (1.0) ...\n' },
    { type: 'line', n: 5, at, step: 'install', offset: 40, text: 'Setting up <demo> & friends ...\n' },
    {
      ...{ type: 'result', n: 6, at, outcome, cause: outcome === 'failed' ? 'maintainer-script' : null },
      ...{
        step: 'install',
        message: outcome === 'failed' ? 'demo: its postinst failed' : '',
        latched: true,
        rebootPending: false,
      },
      evidence: outcome === 'failed' ? ['dpkg: error processing package demo <exit 1>'] : [],
      advice: outcome === 'failed' ? ['look into /var/log/demo.log'] : [],
      ...{ installed: [], outputBytes: 70, outputSha256: '0'.repeat(64) },
    },
  ]
  for (const record of records) await machine.say({ t: 'records', order: id, records: [record] })
}
