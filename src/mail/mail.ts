import { MAIL_CHANNEL, type StoredEvent } from '../events/catalog.ts'
import type { Listener } from '../events/dispatch.ts'
import { service } from '../service.ts'
import type { Vault } from '../webhooks/vault.ts'

/** A message to a user. */
export interface Mail {
  /** The recipient's account. */
  userId: string
  to: string
  /** Which message it is: mailers may use a text of their own. */
  template: 'reset' | 'verify' | 'taken' | 'password-changed' | 'email-changed'
  subject: string
  /** Plain text, with the link. */
  text: string
  /** What the user opens, with a token. Null: nothing. */
  link: string | null
}

/** A message that could not be sent for this long is not sent: nobody waits for it, and its token may have expired. */
const GIVE_UP_MS = 3_600_000

export type MailPort = ReturnType<typeof createMailPort>
export const mailPort = service<MailPort>('mail port')

/**
 * The port through which all mail leaves: the event `mail_requested` in the outbox, recorded by the transaction that needs
 * the message. So a message is sent at least once if that happened, and never otherwise.
 *
 * With a Cloudflare Email binding, a listener sends the message. Otherwise the mailer of a back end does: its webhook
 * subscribes to `mail_events`, a channel for services only, which no stream has. In development the message is printed.
 *
 * Text and link contain tokens, so they are encrypted in D1 and nowhere else: Redis never has them.
 */
export function createMailPort(
  vault: Vault,
  { from, binding, isPrinted }: { from: string; binding: SendEmail | undefined; isPrinted: boolean },
) {
  /** The event as its receiver needs it. */
  function reveal(event: StoredEvent): StoredEvent {
    if (event.channel !== MAIL_CHANNEL) return event
    const open = (value: unknown) => (typeof value === 'string' ? vault.open(value, event.id) : value)
    const { text, link, ...data } = event.data
    return { ...event, data: { ...data, text: open(text), link: open(link) } }
  }

  const listener: Listener = {
    name: 'mail',
    wants: ({ channel }) => channel === MAIL_CHANNEL,
    /**
     * Recorded first, then completed by the queue. Repeating it sends again: where a reply is lost, or a later message
     * of the batch fails, a user may get a message twice.
     */
    async handle(events) {
      for (const event of events) {
        if (Date.now() - event.createdAt > GIVE_UP_MS) continue
        const { to, subject, text } = reveal(event).data as unknown as Mail // the port recorded it
        if (binding) await binding.send({ to, from, subject, text })
        // A warning, because `npm start` hides what is less.
        else if (isPrinted) console.warn(`Mail to ${to}: ${subject}\n\n${text}\n`)
      }
    },
  }

  return {
    listener,
    reveal,

    /** The event that sends `mail`, for `Transaction.record`. */
    request({ text, link, ...mail }: Mail, id: string) {
      const seal = (value: string) => vault.seal(value, id)
      return {
        id,
        type: 'mail_requested' as const,
        data: { ...mail, text: seal(text), link: link === null ? null : seal(link) },
        audience: 'services' as const,
      }
    },
  }
}
