import { faker } from '@faker-js/faker/locale/en'

const { animal, book, food, hacker, helpers, location, music, number, person, vehicle, word } = faker

/** Sentences by topic. A post opens with one of the first two; some of the others follow in this order. */
type Topic = (() => string)[]

const lower = (text: string) => text.toLowerCase()
const hours = () => number.int({ min: 2, max: 11 })
const withArticle = (noun: string) => `${/^[aeiou]/i.test(noun) ? 'an' : 'a'} ${noun}`

const TOPICS: Topic[] = [
  [
    () => `Finally tried ${lower(food.dish())} at a tiny place in ${location.city()}.`,
    () => `Made ${lower(food.dish())} for ${person.firstName()} tonight and there is nothing left.`,
    () => `The secret is ${lower(food.spice())}, and then a little more ${lower(food.spice())}.`,
    () => `I did not expect ${lower(food.fruit())} and ${lower(food.vegetable())} to get along this well.`,
    () => `It took ${hours()} hours and every pan I own.`,
    () => 'Would I do it again? Tomorrow, if somebody else washes up.',
  ],
  [
    () => `Halfway through “${book.title()}” and I keep missing my stop.`,
    () => `Somebody left a copy of ${book.author()} on the train, so that is my weekend.`,
    () => `Chapter ${hours()} is better than most whole books.`,
    () => `If you like ${lower(book.genre())}, start here; if you do not, start here anyway.`,
    () => 'No spoilers please, I read slowly and on purpose.',
    () => `${person.firstName()} says the ending is ${word.adjective()}. I will report back.`,
  ],
  [
    () => `“${music.songName()}” came on in the shop and three strangers sang along.`,
    () => `Learning ${music.songName()} on a piano with ${hours()} working keys.`,
    () => `Saw ${withArticle(lower(music.genre()))} band in ${location.city()} last night.`,
    () => `They opened for ${music.artist()} once and still talk about it.`,
    () => 'My ears are ringing and I regret nothing.',
    () => `Drop your favourite ${lower(music.genre())} record below, I have a long drive ahead.`,
  ],
  [
    () => `Spent ${hours()} hours on a bug in the ${hacker.adjective()} ${hacker.noun()}.`,
    () => `Turns out the ${hacker.abbreviation()} ${hacker.noun()} was ${hacker.ingverb()} twice.`,
    () => 'It was the cache. It is always the cache.',
    () => `The fix is one line; the test that would have caught it is ${number.int({ min: 20, max: 60 })}.`,
    () => `If you ever have to ${hacker.verb()} the ${hacker.noun()} on a Friday: do not.`,
    () => 'Deleting code today. Best kind of day.',
  ],
  [
    () => `Woke up in ${location.city()}, ${location.country()}, with no plan at all.`,
    () => `Missed the last bus to ${location.city()}, walked ${hours()} kilometres, found the best view of the trip.`,
    () => `An old man on ${location.street()} drew me ${withArticle(word.adjective())} map on a napkin.`,
    () => `Does anyone know where to eat ${lower(food.dish())} around here?`,
    () => 'The photos do it no justice, so here are none.',
    () => `Next stop: ${location.city()}, if the train feels like it.`,
  ],
  [
    () => `The balcony belongs to ${withArticle(animal.bird())} now, who pays no rent.`,
    () => `Met ${withArticle(animal.dog())} called ${person.firstName()} this morning. Day made.`,
    () => `The neighbour’s ${animal.cat()} cat has decided that I am furniture.`,
    () => `Nobody told me ${withArticle(animal.type())} could be this ${word.adjective()}.`,
    () => 'I have been chosen and there is no appeal.',
    () => 'Send names, we have until Sunday.',
  ],
  [
    () => `New ${lower(vehicle.bicycle())}, and the hill after ${location.city()} is as steep as ever.`,
    () => `${hours()} km to ${location.city()} before breakfast, slower than yesterday and happier.`,
    () => `It rained all the way there, and on ${location.street()} all the way back.`,
    () => `${person.firstName()} overtook me while eating a banana.`,
    () => 'Legs: gone. Mood: excellent.',
    () => 'Rest day tomorrow. This time I mean it.',
  ],
  [
    () => `Unpopular opinion: ${lower(food.ingredient())} is ${word.adjective()}.`,
    () => `Small joy of the day: ${word.adjective()} light over ${location.street()}.`,
    () => `Today ${withArticle(lower(person.jobTitle()))} told me to slow down, and I think they were right.`,
    () => `Reminder to call ${person.firstName()} back. And to drink some water.`,
    () => `What is the most ${word.adjective()} thing you learned this week?`,
    () => 'That is all. Carry on.',
  ],
]

/** For search: Chinese and Japanese, which have no spaces between words, and Korean. */
const CJK = [
  '東京の夜景がきれいでした。また来年も行きたい。',
  '朝ごはんは味噌汁とご飯。シンプルが一番おいしい。',
  '新しい本を買ったけど、まだ一ページも読んでいない。',
  '猫がキーボードの上で寝ているので今日は仕事になりません。',
  '桜が咲き始めました。週末は公園で花見をします。',
  '今天在北京吃了一碗很好吃的牛肉面，强烈推荐。',
  '周末去爬山，风景太美了，腿也快断了。',
  '学习编程三个月，终于写出了自己的第一个网站。',
  '台北下雨了，正好在咖啡館看一本好書。',
  '我家的貓今天學會了自己開門，救命。',
  '오늘 서울 날씨가 정말 좋아요. 한강에서 자전거 탔어요.',
  '드디어 김치찌개를 제대로 끓였다. 비결은 시간이다.',
  '주말에는 커피 한 잔과 책 한 권이면 충분합니다.',
]

const SHORT = ['Good morning.', 'Who else is still awake?', 'Hello, world.', 'Monday again.', 'We did it!', 'Tea time.']
const EMOJI = ['😂', '🔥', '🙌', '☕️', '🚀', '🌧️', '🐈', '🎧', '📚', '🚲', '🍜', '👩‍💻', '🥹', '🌸']
const TAGS = ['#food', '#books', '#nowplaying', '#devlife', '#travel', '#pets', '#cycling', '#thoughts']

const REPLIES = [
  () => 'Same here.',
  () => 'Needed this today, thank you.',
  () => `This made my ${faker.date.weekday()}.`,
  () => `${person.firstName()} has to see this.`,
  () => `You had me at ${lower(food.dish())}.`,
  () => `Only if there is ${lower(food.ingredient())} involved.`,
  () => `Come to ${location.city()}, it is worse here.`,
  () => `Reminds me of “${book.title()}”.`,
  () => `Now I have “${music.songName()}” stuck in my head.`,
  () => `Did you try to ${hacker.verb()} the ${hacker.noun()}?`,
  () => `The word you are looking for is “${word.adjective()}”.`,
  () => 'Source: trust me.',
  () => 'I would like to disagree, but I cannot.',
  () => 'Say more?',
  () => '100 %.',
  () => '素敵ですね！',
  () => '哈哈哈太真实了',
  () => '완전 공감해요.',
]

/** The text of a post, 1 to 500 characters. Like everything here it uses faker's seed. */
export function postText(): string {
  const kind = number.float()
  if (kind < 0.07) return withEmoji(helpers.arrayElement(CJK))
  if (kind < 0.12) return withEmoji(helpers.arrayElement(SHORT))
  const topic = number.int(TOPICS.length - 1)
  const sentences = TOPICS[topic] ?? []
  const openers = sentences.slice(0, 2)
  const more = sentences.slice(2)
  const count = helpers.weightedArrayElement([
    { weight: 5, value: 0 },
    { weight: 4, value: 1 },
    { weight: 3, value: 2 },
    { weight: 1, value: more.length },
  ])
  const from = number.int(more.length - count)
  const said = [helpers.arrayElement(openers), ...more.slice(from, from + count)].map((sentence) => sentence())
  const text = withEmoji(said.join(' '))
  return number.float() < 0.2 ? `${text} ${TAGS[topic]}` : text
}

/** The text of a comment. */
export function commentText(): string {
  return withEmoji(helpers.arrayElement(REPLIES)())
}

/** The text of a bio. */
export function bioText(): string {
  return withEmoji(
    `${person.jobTitle()} in ${location.city()}. Mostly ${lower(book.genre())} and ${lower(food.dish())}.`,
  )
}

function withEmoji(text: string): string {
  return number.float() < 0.25 ? `${text} ${helpers.arrayElement(EMOJI)}` : text
}
