/**
 * The conversations: each message to the bot that is a command becomes a talk in the ledger before Slack is told that
 * it arrived, so a delivery that comes twice is one talk, and a talk that was cut off by a restart is taken up again.
 * A talk may be gone through again from its beginning: whatever it says has a name of its own and is said once, and
 * what it asks of an instance bears a key or is marked before it is asked.
 */
import { RefusedError } from '../../protocol/errors.ts'
import { isUnreachable } from '../client/failure.ts'
import { ask } from './commands.ts'
import { escaped, refusalText } from './markup.ts'
import type { Place } from './ports.ts'
import { type Talk, type TalksPorts, Talking, talkKey } from './talking.ts'
import { editedText } from './texts.ts'
import { type Said, plain, read } from './words.ts'

export type Talks = {
  /** Takes a message to the bot; what it returned for is on disk. */
  readonly hear: (heard: Place & { readonly user: string; readonly text: string; readonly ts: string }) => void
  /** Says, once for a message, that an edit changes nothing: what was asked for may be done already. */
  readonly hearEdit: (edit: Place & { readonly ts: string }) => void
  /** Goes on with a talk whose offer was taken. */
  readonly go: (id: string) => void
  /** Takes up what a restart cut off. */
  readonly start: () => void
  readonly stop: () => Promise<void>
}

export function createTalks(ports: TalksPorts): Talks {
  const running = new Map<string, Promise<void>>()
  const go = (id: string) => {
    if (running.has(id) || ports.signal.aborted) return
    const run = runTalk(ports, id)
      .catch((error: unknown) => ports.log.error({ err: error, talk: id }, 'a talk was not brought to its end'))
      .finally(() => running.delete(id))
    running.set(id, run)
  }
  return {
    go,
    hear: ({ user, text, channel, thread, ts }) => {
      // A mention in a direct message is delivered as both; its channel and time are those of one message.
      const id = `${channel}-${ts}`
      if (ports.ledger.get(talkKey(id)) !== undefined) return
      const person = Object.hasOwn(ports.config.people, user) ? (ports.config.people[user] ?? null) : null
      const begun = { state: 'open' as const, confirmed: false, called: false, instance: null }
      const talk: Talk = { id, user, person, text, channel, thread, at: ports.now(), ...begun }
      ports.ledger.put([[talkKey(id), talk]])
      go(id)
    },
    hearEdit: ({ channel, thread, ts }) => {
      const id = `${channel}-${ts}`
      const talk = ports.ledger.get(talkKey(id)) as Talk | undefined
      const text = editedText(talk === undefined ? null : plain(talk.text))
      ports.messages.put(ports.messages.made(`talk/${id}/edited`, { channel, thread }, { text }))
    },
    start: () => {
      for (const { doc } of ports.ledger.list('talk/')) {
        const talk = doc as Talk
        if (talk.state === 'open') go(talk.id)
      }
    },
    stop: async () => {
      await Promise.all(running.values())
    },
  }
}

async function runTalk(ports: TalksPorts, id: string): Promise<void> {
  const talk = ports.ledger.get(talkKey(id)) as Talk | undefined
  if (talk === undefined || talk.state === 'done') return
  const said = read(talk.text, ports.config.name)
  if (talk.person === null) {
    sayStranger(ports, talk)
    return
  }
  const talking = new Talking(ports, talk, talk.person)
  try {
    await ask(talking, said)
  } catch (error) {
    // The end of the service: the talk stays open, and the next start takes it up.
    if (ports.signal.aborted) return
    sayFailure(talking, error, said)
  }
  if (talking.talk.state === 'open' && !ports.signal.aborted) talking.put([], { state: 'done' })
}

/** No mapping, no rights; not even to look. */
function sayStranger(ports: TalksPorts, talk: Talk): void {
  const text = `I don't know you, so I may do nothing for you. Ask whoever runs me to add your Slack id to the people of the configuration: \`${escaped(talk.user)} = "YOUR NAME IN SMITH"\`.`
  ports.messages.put([
    ...ports.messages.made(`talk/${talk.id}/stranger`, talk, { text }),
    [talkKey(talk.id), { ...talk, state: 'done' }],
  ])
}

function sayFailure(talking: Talking, error: unknown, said: Said): void {
  if (error instanceof RefusedError) {
    const asked = said.verb === 'patch' || said.verb === 'plan' ? said.rest : null
    talking.say('refused', refusalText(error.refusals, asked))
    return
  }
  const { log } = talking.ports
  if (!isUnreachable(error)) log.error({ err: error, talk: talking.talk.id }, 'a command failed')
  const remedy = isUnreachable(error) ? error.remedy : 'The log of the coordinator says more.'
  talking.say('failed', escaped(`${error instanceof Error ? error.message : String(error)}\n${remedy}`))
}
