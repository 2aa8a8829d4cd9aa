/**
 * What Slack delivered, as far as it concerns the bot. Pure. Joins, the bot's own posts and those of other bots are
 * none of its business; a field that is not what it should be makes an envelope nobody's.
 */
import * as v from 'valibot'
import type { Envelope, Place, Self } from './ports.ts'

export type Heard =
  | ({ readonly kind: 'message'; readonly user: string; readonly text: string; readonly ts: string } & Place)
  /** A message in a direct talk that says something else now; `ts` is still that of its first sending. */
  | ({ readonly kind: 'edit'; readonly ts: string } & Place)
  | {
      readonly kind: 'click'
      readonly user: string
      readonly action: string
      readonly nonce: string
      readonly responseUrl: string | null
    }
  | { readonly kind: 'limited' }

const eventSchema = v.object({
  event: v.object({
    type: v.picklist(['message', 'app_mention']),
    channel: v.string(),
    user: v.string(),
    text: v.string(),
    ts: v.string(),
    thread_ts: v.optional(v.string()),
    channel_type: v.optional(v.string()),
    subtype: v.optional(v.string()),
    bot_id: v.optional(v.string()),
  }),
})
const editSchema = v.object({
  event: v.object({
    type: v.literal('message'),
    subtype: v.literal('message_changed'),
    channel: v.string(),
    message: v.object({
      user: v.string(),
      text: v.string(),
      ts: v.string(),
      thread_ts: v.optional(v.string()),
      bot_id: v.optional(v.string()),
    }),
    previous_message: v.object({ text: v.string() }),
  }),
})
const clickSchema = v.object({
  type: v.literal('block_actions'),
  user: v.object({ id: v.string() }),
  response_url: v.optional(v.string()),
  actions: v.pipe(v.array(v.object({ action_id: v.string(), value: v.optional(v.string()) })), v.minLength(1)),
})
/** A message that was typed; others are news about messages. */
const TYPED = [undefined, 'file_share', 'thread_broadcast']

export function readEnvelope({ type, body }: Envelope, self: Self | null): Heard | null {
  if (type === 'events_api') {
    const edit = v.safeParse(editSchema, body)
    if (edit.success) return readEdit(edit.output.event, self)
    const parsed = v.safeParse(eventSchema, body)
    if (!parsed.success) return isLimit(body) ? { kind: 'limited' } : null
    const { event } = parsed.output
    if (event.bot_id !== undefined || event.user === self?.user || !TYPED.includes(event.subtype)) return null
    // In a channel the bot hears what is said to it alone, and answers in a thread.
    const isDirect = event.channel_type === 'im' || event.channel.startsWith('D')
    if (event.type === 'message' && !isDirect) return null
    const thread = event.thread_ts ?? (isDirect ? null : event.ts)
    return { kind: 'message', user: event.user, text: event.text, ts: event.ts, channel: event.channel, thread }
  }
  if (type === 'interactive') {
    const parsed = v.safeParse(clickSchema, body)
    const action = parsed.success ? parsed.output.actions[0] : undefined
    if (!parsed.success || action === undefined) return null
    const { user, response_url: responseUrl } = parsed.output
    return {
      kind: 'click',
      user: user.id,
      action: action.action_id,
      nonce: action.value ?? '',
      responseUrl: responseUrl ?? null,
    }
  }
  return null
}

/** Slack tells a link that it unfolded as a change too: then the text is what it was. */
function readEdit(event: v.InferOutput<typeof editSchema>['event'], self: Self | null): Heard | null {
  const { channel, message, previous_message: before } = event
  if (message.bot_id !== undefined || message.user === self?.user || !channel.startsWith('D')) return null
  if (message.text === before.text) return null
  return { kind: 'edit', ts: message.ts, channel, thread: message.thread_ts ?? null }
}

function isLimit(body: unknown): boolean {
  return typeof body === 'object' && body !== null && 'type' in body && body.type === 'app_rate_limited'
}
